"""How long until the apps run: the agent, what users have today, and the floor.

The agent runs twice: without containers, and with those that `image --create` makes ahead. All on
one engine in one run, interleaved; the table shows medians and ratios. What counts is
the time from "engine ready" to the last container's start, as dockerd writes it down. For the
agent the engine becomes ready while it waits, as at boot: dockerd is stopped (SIGSTOP) with its
socket open, and goes on (SIGCONT) when the agent waits for it.
"""

import datetime
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import docker
from virtual_device import Device, agent_layer, device_tree, samples

ROUNDS = 5
SHAPES = ((1, 1), (4, 1), (8, 2))
"""Numbers of apps, and of services in each."""

COMPOSE_APPS = "/var/sota/compose-apps"

_LAUNCHER = """
import json, resource, sys, time
from compose_apps_early_start.cli import main
first = []
def hook(name, arguments):
    if name == "subprocess.Popen" and not first:
        first.append(time.time())
sys.addaudithook(hook)
status = main(["start"])
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "status": status,
    "first_compose": first[0] if first else None,
    "cpu_seconds": usage.ru_utime + usage.ru_stime,
    "peak_megabytes": usage.ru_maxrss / 1024,
}))
"""


@dataclass
class Series:
    """What was measured of one contender, run after run; seconds and megabytes."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


class Bench:
    """One device with one engine, and the contenders on it."""

    def __init__(self, device: Device, references: Mapping[str, str]) -> None:
        self.device = device
        self.references = references
        self.dockerd = device.start_dockerd()
        self.client = docker.APIClient(
            base_url=f"unix://{device.path('/run/docker.sock')}", version="auto"
        )

    def install(self, apps: int, services: int) -> None:
        """Make exactly `apps` preloaded apps of `services` services."""
        self.device.run(["sh", "-c", "rm -rf /var/sota/compose-apps/*"])
        self.apps = [f"app{number}" for number in range(apps)]
        self.services = [f"s{number}" for number in range(services)]
        image = f"{samples.HOST}/factory/worker"
        text = "services:\n" + "".join(
            f"  {name}:\n    image: {image}\n    restart: always\n" for name in self.services
        )
        for app in self.apps:
            files = {"docker-compose.yml": samples.publish(text, self.references)}
            samples.install(self.device, app, files)

    def clean(self) -> None:
        """Remove all containers and networks."""
        for each in self.client.containers(all=True):
            self.client.remove_container(each["Id"], force=True)
        self.client.prune_networks()

    def last_start(self) -> float:
        """Return when the last container was started; all must run."""
        found = [self.client.inspect_container(c["Id"]) for c in self.client.containers()]
        expected = len(self.apps) * len(self.services)
        if len(found) != expected:
            raise SystemExit(f"{len(found)} containers run, not {expected}")
        return max(_seconds(each["State"]["StartedAt"]) for each in found)

    def agent(self) -> dict[str, float]:
        """Run the agent on an engine that becomes ready while it waits."""
        self.dockerd.send_signal(signal.SIGSTOP)
        process = self.device.popen(
            ["python3", "-c", _LAUNCHER], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout
        assert process.stderr
        began = time.time()
        for line in process.stderr:
            if line.startswith("waiting for dockerd"):
                break
        time.sleep(0.2)  # it is in the kernel by now, waiting for the answer
        loading = time.time() - began
        ready = time.time()
        self.dockerd.send_signal(signal.SIGCONT)
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        told = json.loads(process.stdout.read())
        ended = time.time()
        drain.join()
        process.wait()
        if told["status"] != 0:
            raise SystemExit(f"the agent ended with {told['status']}")
        return {
            "run": self.last_start() - ready,
            "whole": ended - ready,
            "loading": loading - 0.2,
            "first_compose": (told["first_compose"] or ready) - ready,
            "composes": float(told["first_compose"] is not None),
            "cpu": told["cpu_seconds"],
            "memory": told["peak_megabytes"],
        }

    def agent_created_ahead(self) -> dict[str, float]:
        """The same, on containers that were created before."""
        for app in self.apps:
            argv = ["docker", "compose", "create", "--pull", "never", "--no-build"]
            self.device.run(argv, cwd=f"{COMPOSE_APPS}/{app}")
        made = {each["Id"] for each in self.client.containers(all=True)}
        found = self.agent()
        if {each["Id"] for each in self.client.containers(all=True)} != made:
            raise SystemExit("containers were made anew")
        return found

    def serial(self) -> dict[str, float]:
        """`docker compose up -d` for one app after the other: what users have today."""
        script = "for app in /var/sota/compose-apps/*; do cd $app; docker compose up -d; done"
        began = time.time()
        self.device.run(["sh", "-ec", script])
        return {"run": self.last_start() - began, "whole": time.time() - began}

    def floor(self) -> dict[str, float]:
        """The same containers and networks through the Engine API, apps side by side."""
        began = time.time()
        threads = [threading.Thread(target=self._floor_app, args=(app,)) for app in self.apps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"run": self.last_start() - began}

    def _floor_app(self, app: str) -> None:
        network = f"{app}_default"
        self.client.create_network(network)
        for service in self.services:
            host = self.client.create_host_config(
                network_mode=network, restart_policy={"Name": "always"}
            )
            made = self.client.create_container(
                self.references["factory/worker"], name=f"{app}-{service}-1", host_config=host
            )
            self.client.start(made["Id"])


def _seconds(text: str) -> float:
    whole, _, rest = text.rstrip("Z").partition(".")
    moment = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.UTC)
    return moment.timestamp() + float(f"0.{rest or 0}")


def measure(bench: Bench, rounds: int) -> None:
    """Print the tables."""
    print(f"medians of {rounds} interleaved runs on one engine\n")
    print("| engine ready to all running | serial `docker compose up -d` | agent | created ahead "
          "| floor | agent / serial | created ahead / serial | floor / serial |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    agent_runs: dict[int, dict[str, Series]] = {}
    for apps, services in SHAPES:
        bench.install(apps, services)
        contenders: dict[str, Callable[[], dict[str, float]]] = {
            "serial": bench.serial,
            "agent": bench.agent,
            "created ahead": bench.agent_created_ahead,
            "floor": bench.floor,
        }
        series: dict[str, dict[str, Series]] = {name: {} for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                bench.clean()
                for key, value in contender().items():
                    series[name].setdefault(key, Series()).values.append(value)
        serial, agent, ahead, floor = (series[name]["run"].median for name in contenders)
        agent_runs[apps] = series["agent"]
        print(
            f"| {apps} apps of {services} | {serial:.2f} s | {agent:.2f} s | {ahead:.2f} s "
            f"| {floor:.2f} s | {agent / serial:.2f} | {ahead / serial:.2f} "
            f"| {floor / serial:.2f} |",
            flush=True,
        )
    _print_noop(bench, rounds)
    print("\n| the agent itself | " + " | ".join(f"{apps} apps" for apps in agent_runs) + " |")
    print("|---|" + "---|" * len(agent_runs))
    for title, key, unit, scale in (
        ("engine ready to first compose process", "first_compose", "ms", 1000.0),
        ("loading, while dockerd starts", "loading", "ms", 1000.0),
        ("own CPU time", "cpu", "s", 1.0),
        ("own peak memory", "memory", "MB", 1.0),
    ):
        cells = (f"{runs[key].median * scale:.{0 if unit != 's' else 2}f} {unit}"
                 for runs in agent_runs.values())  # fmt: skip
        print(f"| {title} | " + " | ".join(cells) + " |")


def _print_noop(bench: Bench, rounds: int) -> None:
    """Everything runs already: what does another run cost?"""
    bench.clean()
    bench.agent()
    time.sleep(11)  # settled
    serial, agent = Series(), Series()
    for _ in range(rounds):
        serial.values.append(bench.serial()["whole"])
        run = bench.agent()
        if run["composes"]:
            raise SystemExit("compose was called though everything runs")
        agent.values.append(run["whole"])
    print("\n| everything runs already | serial | agent, no compose process | ratio |")
    print("|---|---|---|---|")
    print(
        f"| {len(bench.apps)} apps of {len(bench.services)} | {serial.median:.2f} s "
        f"| {agent.median:.2f} s | {agent.median / serial.median:.2f} |"
    )


def main() -> None:
    """Make the device, and measure."""
    top = Path(__file__).parents[2]
    deb = Path(
        subprocess.check_output([top / "packaging/debian/build", top / "build"], text=True).strip()
    )
    tree = agent_layer(device_tree(), deb)
    preload = samples.preload(tree)
    with Device(tree, preload=preload.docker) as device:
        measure(
            Bench(device, preload.references), int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
        )


if __name__ == "__main__":
    main()
