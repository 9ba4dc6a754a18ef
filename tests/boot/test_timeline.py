"""The timeline of a real boot agrees with what systemd says."""

from collections.abc import Mapping
from typing import Any

import pytest
from boot.boots import AGENT
from boot.scenarios import WAIT_ONLINE_SECONDS, Flashed, Life


def lane(timeline: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    (found,) = (each for each in timeline["lanes"] if each["name"] == name)
    return dict(found)


def verdict(timeline: Mapping[str, Any], app: str) -> float:
    (found,) = (mark for mark in lane(timeline, app)["marks"] if mark["what"] == "running")
    return float(found["uptime"])


def test_the_phases_of_a_boot_add_up(life: Life) -> None:
    phases = life.timeline["phases"]
    names = [each["name"] for each in phases]
    assert names[0] == "kernel"
    assert names[-3:] == ["dockerd", "agent", "apps"]
    total = sum(each["end"] - each["begin"] for each in phases)
    assert total == pytest.approx(life.timeline["end"], abs=0.1)
    assert total >= max(verdict(life.timeline, app) for app in ("shop", "debug-tools"))
    # systemd's word for the end of the agent comes when its process has ended.
    assert 0 <= life.first.active(AGENT) - total < 30


def test_the_timeline_agrees_with_systemd(life: Life) -> None:
    waiting, starting = lane(life.timeline, "docker.service")["spans"]
    assert waiting["end"] == starting["begin"] == life.first.began("docker")
    assert starting["end"] == life.first.active("docker")
    (reached,) = lane(life.timeline, "lmp-device-auto-register.service")["marks"]
    assert reached["uptime"] == life.first.began("lmp-device-auto-register")


def test_what_held_docker_back_adds_up_to_its_start(life: Life) -> None:
    links = life.timeline["held_back"]
    assert life.timeline["gate"] == "docker.service"
    assert links
    assert links[-1]["done"] <= life.first.began("docker")
    assert "containerd.service" in {each["name"] for each in life.timeline["lanes"]}


def test_a_wait_online_service_is_named_as_what_held_docker_back(wait_online: Flashed) -> None:
    shown = wait_online.timeline
    longest = max(shown["held_back"], key=lambda link: float(link["seconds"]))
    assert longest["unit"] == "wait-online.service"
    assert longest["seconds"] >= WAIT_ONLINE_SECONDS - 1
    (phase,) = (each for each in shown["phases"] if each["name"] == "wait-online.service")
    assert phase["end"] - phase["begin"] == pytest.approx(longest["seconds"], abs=0.1)
