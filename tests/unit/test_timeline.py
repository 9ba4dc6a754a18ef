"""The timeline: phases that add up, what held docker back, and its three forms."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from compose_apps_early_start import drawing, timeline, units, uptime
from compose_apps_early_start.cli import main
from compose_apps_early_start.errors import EarlyStartError
from compose_apps_early_start.record import AppRecord, ContainerRecord, RunRecord, Step, write
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.timeline import Mark, Phase, Span, Timeline
from compose_apps_early_start.units import Boot, Link, Unit, held_back, parse

# systemd's units


def unit(name: str, began: float, done: float | None, *after: str) -> Unit:
    return Unit(name, began, done, frozenset(after))


def boot(*found: Unit, initrd: float | None = None, userspace: float = 4.0) -> Boot:
    return Boot(initrd, userspace, {each.name: each for each in found})


SHOWN = """\
Id=docker.service
After=containerd.service network-online.target
InactiveExitTimestampMonotonic=69200000
ActiveEnterTimestampMonotonic=74600000
InactiveEnterTimestampMonotonic=0

Id=wait-online.service
After=
InactiveExitTimestampMonotonic=9000000
ActiveEnterTimestampMonotonic=0
InactiveEnterTimestampMonotonic=69000000

Id=never.service
After=
InactiveExitTimestampMonotonic=0
ActiveEnterTimestampMonotonic=0
InactiveEnterTimestampMonotonic=0

Id=starts.service
After=
InactiveExitTimestampMonotonic=9000000
ActiveEnterTimestampMonotonic=0
InactiveEnterTimestampMonotonic=0
"""


def test_what_systemctl_shows_is_read() -> None:
    shown = "InitRDTimestampMonotonic=0\nUserspaceTimestampMonotonic=4100000\n"
    found = parse(shown, SHOWN)
    assert (found.initrd, found.userspace) == (None, 4.1)
    docker = unit("docker.service", 69.2, 74.6, "containerd.service", "network-online.target")
    assert found.units == {
        "docker.service": docker,
        "wait-online.service": unit("wait-online.service", 9.0, 69.0),  # failed: over all the same
        "starts.service": unit("starts.service", 9.0, None),
    }


def test_a_unit_that_was_restarted_is_done_after_its_last_start() -> None:
    shown = SHOWN.split("\n\n")[0].replace(
        "InactiveEnterTimestampMonotonic=0", "InactiveEnterTimestampMonotonic=1"
    )
    assert parse("", shown).units["docker.service"].done == 74.6


CHAIN = (
    unit("basic.target", 8.0, 8.0),
    unit("wait-online.service", 8.1, 68.0, "basic.target"),
    unit("network-online.target", 68.0, 68.0, "wait-online.service"),
    unit("containerd.service", 8.1, 12.0, "basic.target"),
    unit("later.service", 70.0, 71.0),
    unit("docker.service", 68.5, 74.0, "containerd.service", "network-online.target", "later"),
)


def test_the_chain_names_who_was_waited_for_and_adds_up() -> None:
    links = held_back(boot(*CHAIN), "docker.service")
    assert links == (
        Link("systemd", 8.0, 4.0),
        Link("basic.target", 8.0, 0.0),
        Link("wait-online.service", 68.0, 60.0),
        Link("network-online.target", 68.0, 0.0),
    )
    assert sum(each.seconds for each in links) == 68.0 - 4.0


def test_a_unit_that_never_started_held_nothing_back() -> None:
    assert held_back(boot(), "docker.service") == ()
    assert held_back(boot(unit("docker.service", 5.0, 6.0, "gone")), "docker.service") == ()


def test_an_ordering_in_a_circle_comes_to_an_end() -> None:
    a, b = unit("a", 5.0, 5.0, "b"), unit("b", 5.0, 5.0, "a")
    assert [each.unit for each in held_back(boot(a, b), "a")] == ["systemd", "b"]


@pytest.mark.parametrize("failure", ["missing", "fails", "hangs"])
def test_a_systemd_that_does_not_answer_is_told(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_processes: None
) -> None:
    script = {"fails": "echo no bus >&2; echo more >&2; exit 1", "hangs": "exec sleep 9"}
    if failure in script:
        program = tmp_path / "systemctl"
        program.write_text(f"#!/bin/sh\n{script[failure]}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if failure in script else str(tmp_path))
    monkeypatch.setattr(units, "SECONDS", 0.2)
    with pytest.raises(EarlyStartError, match="does not tell when its units") as told:
        units.ask()
    assert told.value.hint
    assert "\n" not in str(told.value)


# The timeline


def steps(**uptimes: float) -> list[Step]:
    return [Step(state, uptime) for state, uptime in uptimes.items()]


USUAL = steps(started=13.0, loaded=16.0, waiting=16.5, ready=74.8, ended=90.6)


def run(*apps: AppRecord, state: str = "ok", of_run: list[Step] = USUAL) -> dict[str, Any]:
    """The record of a run."""
    of = RunRecord(run=1, boot_id="b" * 32, state=state, steps=of_run)
    of.apps = list(apps)
    return of.to_json()


def app(name: str = "shop", **changes: Any) -> AppRecord:
    """An app whose container was restarted once, became healthy, and runs."""
    made = AppRecord(name, steps=steps(waiting=16.4, starting=74.9, settling=88.2, running=90.5))
    made.containers = [ContainerRecord(healthy_uptime=89.0, restart_uptimes=[80.1])]
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def shown_by(
    of: dict[str, Any], at: Boot | None, now: float = 500.0, unknown: str | None = None
) -> Timeline:
    shown = timeline.make(of, at, now, unknown)
    assert_adds_up(shown.phases, shown.end)
    return shown


def assert_adds_up(phases: Iterable[Phase], end: float) -> None:
    since = 0.0
    for each in phases:
        assert each.begin == since
        assert each.end > each.begin
        since = each.end
    assert since == end


def names(shown: Timeline) -> list[str]:
    return [phase.name for phase in shown.phases]


def test_the_phases_name_what_held_docker_back() -> None:
    shown = shown_by(run(app()), boot(*CHAIN))
    assert shown.end == 90.6
    assert shown.phases == (
        Phase("kernel", 0.0, 4.0),
        Phase("system", 4.0, 8.0),
        Phase("wait-online.service", 8.0, 68.0),
        Phase("system", 68.0, 68.5),
        Phase("dockerd", 68.5, 74.0),
        Phase("agent", 74.0, 74.8),
        Phase("apps", 74.8, 90.6),
    )
    told = timeline.explanation(shown)
    assert told == "docker.service waited for: wait-online.service 60.0 s, systemd 4.0 s"


def test_an_initrd_of_systemds_has_a_phase() -> None:
    assert names(shown_by(run(app()), boot(*CHAIN, initrd=2.0)))[:3] == [
        "kernel",
        "initrd",
        "system",
    ]


def test_where_dockerd_was_up_before_the_agent_the_agents_unit_is_what_was_waited_for() -> None:
    units = (
        unit("resize-helper.service", 5.0, 12.5),
        unit("docker.service", 6.0, 9.0),
        unit("compose-apps-early-start.service", 12.6, None, "resize-helper.service"),
    )
    shown = shown_by(run(app()), boot(*units))
    assert shown.gate == "compose-apps-early-start.service"
    assert names(shown) == [
        "kernel",
        "system",
        "resize-helper.service",
        "system",
        "agent",
        "apps",
    ]


def test_a_run_by_hand_was_not_held_back_by_what_its_unit_waited_for_at_boot() -> None:
    units = (
        unit("slow.service", 5.0, 10.0),
        unit("docker.service", 6.0, 9.0),
        unit("compose-apps-early-start.service", 10.0, 12.0, "slow.service"),
    )
    times = steps(started=100.0, loaded=101.0, waiting=101.0, ready=101.5, ended=110.0)
    shown = shown_by(run(app(), of_run=times), boot(*units))
    assert shown.held_back == ()
    assert names(shown) == ["kernel", "system", "agent", "apps"]


def test_a_dockerd_that_was_restarted_since_is_not_taken_for_that_of_the_run() -> None:
    shown = shown_by(run(app()), boot(unit("docker.service", 300.0, 301.0)))
    assert names(shown) == ["kernel", "system", "dockerd", "apps"]
    assert "docker.service" not in [lane.name for lane in shown.lanes]


def test_of_an_earlier_boot_the_record_alone_is_shown() -> None:
    shown = shown_by(run(app()), None, unknown="the units")
    assert names(shown) == ["system", "dockerd", "apps"]
    assert [lane.kind for lane in shown.lanes] == ["agent", "app"]
    assert timeline.text(shown).endswith("\n\nNot known: the units")


def test_a_dockerd_that_never_was_ready_takes_the_rest() -> None:
    times = steps(started=13.0, loaded=16.0, waiting=16.5, ended=140.0)
    held = boot(unit("docker.service", 8.0, None))
    shown = shown_by(run(app(steps=steps(waiting=16.4, failed=139.9)), of_run=times), held)
    assert shown.phases[-1] == Phase("dockerd", 8.0, 140.0)


def test_a_dockerd_that_systemd_did_not_start_takes_the_rest() -> None:
    times = steps(started=13.0, loaded=16.0, waiting=16.5, ended=140.0)
    shown = shown_by(run(app(steps=steps(waiting=16.4, failed=139.9)), of_run=times), boot())
    assert names(shown) == ["kernel", "system", "dockerd"]


@pytest.mark.parametrize(
    ("state", "end"), [("running", 100.0), ("interrupted", 80.0)], ids=["goes on", "was killed"]
)
def test_a_run_without_an_end_is_shown_as_far_as_it_came(state: str, end: float) -> None:
    begun = app(steps=steps(waiting=16.4, starting=80.0), containers=[])
    shown = shown_by(run(begun, state=state, of_run=USUAL[:-1]), boot(*CHAIN), now=100.0)
    assert shown.end == end
    assert shown.lanes[-1].marks == ()


def test_an_apps_lane_has_its_states_restarts_and_verdict() -> None:
    (lane,) = (lane for lane in shown_by(run(app()), None).lanes if lane.kind == "app")
    assert lane.spans == (
        Span("waiting", 16.4, 74.9),
        Span("starting", 74.9, 88.2),
        Span("settling", 88.2, 90.5),
        Span("running", 90.5, 90.6),
    )
    assert lane.marks == (Mark("restart", 80.1), Mark("healthy", 89.0), Mark("running", 90.5))


def test_what_comes_after_the_agent_is_the_last() -> None:
    units = (*CHAIN, unit("aktualizr-lite.service", 90.7, None))
    lane = shown_by(run(app()), boot(*units)).lanes[-1]
    assert (lane.name, lane.marks) == ("aktualizr-lite.service", (Mark("reached", 90.7),))


def test_a_record_of_an_older_agent_has_no_times() -> None:
    with pytest.raises(EarlyStartError, match="has no times") as told:
        timeline.make({**run(app()), "steps": []}, None, 1.0)
    assert "systemctl restart" in told.value.hint


# Its forms


FAILED = app(
    "camera",
    cause="crash-loop",
    steps=steps(waiting=16.4, starting=75.0, failed=88.0),
    containers=[],
)


def test_the_text_answers_first() -> None:
    lines = timeline.text(shown_by(run(app(), FAILED), boot(*CHAIN))).splitlines()
    assert lines[0] == (
        "1 of 2 apps run, the last one after 90.5 s (seconds since the kernel's start)"
    )
    assert "     8.0 s     60.0 s  wait-online.service" in lines
    assert re.search(r"^camera +waiting 58.6 s; .*failed at 88.0 s; crash-loop$", lines[-1])


def test_no_app_at_all_is_no_error() -> None:
    shown = shown_by(run(of_run=steps(started=13.0, loaded=16.0, ended=16.2)), boot(*CHAIN))
    assert timeline.text(shown).startswith("0 of 0 apps run, 16.2 s after the kernel's start")
    ET.fromstring(drawing.svg(shown))


ODD = "<b>&\"'\u001b[31m\u202e"


@pytest.mark.parametrize("name", ["shop", ODD, "x" * 300])
def test_the_picture_is_svg_with_a_lane_for_each_app(name: str) -> None:
    shown = shown_by(run(app(name), FAILED), boot(*CHAIN))
    drawn = ET.fromstring(drawing.svg(shown))
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    words = [each.text or "" for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "Where did the time to the apps go?" in words
    assert "wait-online.service 60.0 s" in words
    assert "crash-loop 88.0 s" in words
    assert any(word.startswith(name[:3]) for word in words)
    # Its own paper, so that it can be read on a dark page.
    assert drawn[0].attrib["fill"] == drawing.PAPER
    width = float(drawn.attrib["width"])
    for bar in drawn.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(bar.attrib.get("x", 0)) + float(bar.attrib["width"]) <= width


def test_a_registration_hours_later_does_not_flatten_the_picture() -> None:
    late = unit("lmp-device-auto-register.service", 9000.0, 9001.0)
    shown = shown_by(run(app()), boot(*CHAIN, late))
    text = drawing.svg(shown)
    assert ">9000.0 s<" in text
    assert ">100 s<" not in text
    assert ">80 s<" in text


# The command


@pytest.fixture
def recorded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A device with the record of a run of this boot, under a systemd that has booted it."""
    write({**run(app()), "boot_id": uptime.boot_id(), "exit_status": 0}, settings.last_run)
    monkeypatch.setattr(units, "ask", lambda: boot(*CHAIN))
    return settings


def test_the_command_prints_text(recorded: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--root={recorded.root}", "timeline"]) == 0
    assert "wait-online.service" in capsys.readouterr().out


def test_the_command_prints_json(recorded: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--root={recorded.root}", "timeline", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == timeline.SCHEMA
    assert sum(each["end"] - each["begin"] for each in told["phases"]) == pytest.approx(told["end"])
    assert {each["unit"] for each in told["held_back"]} >= {"wait-online.service"}


def test_the_command_draws(recorded: Settings, tmp_path: Path) -> None:
    picture = tmp_path / "first-boot.svg"
    assert main([f"--root={recorded.root}", "timeline", f"--svg={picture}"]) == 0
    assert ET.parse(picture).getroot().tag.endswith("svg")


def test_a_picture_that_cannot_be_written_is_told(
    recorded: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "none/first-boot.svg"
    assert main([f"--root={recorded.root}", "timeline", f"--svg={picture}"]) == 1
    told = capsys.readouterr().err
    assert f"{picture}: cannot write: No such file or directory. Next: " in told


def test_a_record_of_an_earlier_boot_is_shown_without_asking_systemd(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({**run(app()), "exit_status": 0}, settings.last_run)
    monkeypatch.setattr(units, "ask", lambda: pytest.fail("systemd was asked"))
    assert "earlier boot" in (timeline.read(settings).unknown or "")


def test_a_systemd_that_does_not_answer_leaves_the_record(
    recorded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Boot:
        raise EarlyStartError("no bus", "hint")

    monkeypatch.setattr(units, "ask", refuse)
    shown = timeline.read(recorded)
    assert shown.unknown == "no bus"
    assert names(shown) == ["system", "dockerd", "apps"]
