"""A device with preloaded images and the agent: what a test puts on it, runs on it and sees."""

import contextlib
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import documents
from virtual_device import Device, Process, samples

AGENT = "compose-apps-early-start"
COMPOSE_APPS = "/var/sota/compose-apps"
RECORDED_CALLS = "/run/compose-calls"
AKTUALIZR = {
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash",  # what systemd takes from Debian's /etc/passwd
    "TMPDIR": "/run/aktualizr",
    "COMPOSE_HTTP_TIMEOUT": "60",
    "REGISTRY_AUTH_FILE": "/usr/lib/docker/config.json",
}
"""The environment that aktualizr-lite's unit gives compose."""

# Before the real plugin in the docker CLI's search order.
_FIRST_PLUGIN = "/usr/local/lib/docker/cli-plugins/docker-compose"
_RECORDING_PLUGIN = f"""#!/bin/sh
echo "${{PWD##*/}} $*" >>{RECORDED_CALLS}
%s
exec /usr/libexec/docker/cli-plugins/docker-compose "$@"
"""


@dataclass(frozen=True)
class Run:
    """A run of the agent that has ended, and the record of it that `status --json` shows."""

    exit_status: int
    stderr: str
    seconds: float
    record: dict[str, Any]

    @property
    def lines(self) -> list[str]:
        return self.stderr.splitlines()

    @property
    def states(self) -> dict[str, str]:
        """App to state, in order of dispatch."""
        return {app["name"]: app["state"] for app in self.record["apps"]}

    @property
    def causes(self) -> dict[str, str | None]:
        return {app["name"]: app["cause"] for app in self.record["apps"]}

    def app(self, name: str) -> dict[str, Any]:
        """The app's part of the record."""
        (found,) = (app for app in self.record["apps"] if app["name"] == name)
        return dict(found)


class Start:
    """`compose-apps-early-start start` while it runs."""

    def __init__(self, board: "Board", process: Process) -> None:
        self.process = process
        self._board = board
        self._began = time.monotonic()
        self._seen: list[str] = []
        self._before = board.keepsakes()

    def read_until(self, text: str) -> float:
        """Wait for the line with `text` on standard error; return the seconds since the start."""
        assert self.process.stderr
        while line := self.process.stderr.readline():
            self._seen.append(line)
            if text in line:
                return time.monotonic() - self._began
        raise AssertionError(f"the agent ended without saying {text!r}:\n{''.join(self._seen)}")

    def end(self) -> Run:
        """Wait for its end."""
        _, rest = self.process.communicate()
        seconds = time.monotonic() - self._began
        stderr = "".join(self._seen) + rest
        assert "Traceback" not in stderr, stderr
        lost = self._before - self._board.keepsakes() - self._board.may_go
        assert not lost, f"the run took away {sorted(lost)}:\n{stderr}"
        return Run(self.process.returncode, stderr, seconds, self._board.record())


class Board:
    """A device, not yet booted: dockerd is down until `device.start_dockerd()`."""

    def __init__(self, device: Device, preload: samples.Preload) -> None:
        self.device = device
        self.references = preload.references
        self.may_go: set[str] = set()
        self._api: Any = None

    @property
    def api(self) -> Any:
        """The docker SDK on the device's dockerd, spoken to from the host."""
        if self._api is None:
            socket = self.device.path("/run/docker.sock")
            self._api = docker.APIClient(base_url=f"unix://{socket}", version="1.41")
        return self._api

    # What is on the device.

    def folder(self, app: str) -> Path:
        return self.device.path(COMPOSE_APPS) / app

    def preload_sample(self, *names: str) -> None:
        for name in names:
            samples.install(self.device, name, samples.sample(name, self.references))

    def preload(
        self, name: str, compose: str | Mapping[str, object], files: Mapping[str, str] | None = None
    ) -> None:
        """Put an app in its place: its compose file as publishing makes it, and more `files`."""
        bundle = {"docker-compose.yml": samples.publish(compose, self.references), **(files or {})}
        samples.install(self.device, name, bundle)

    def preload_raw(self, name: str | bytes, compose: bytes) -> None:
        """Put an app there whose compose file is `compose`, whatever that is."""
        folder = os.path.join(os.fsencode(self.folder("")), os.fsencode(name))  # noqa: PTH118
        os.makedirs(folder)  # noqa: PTH103
        Path(os.fsdecode(folder), "docker-compose.yml").write_bytes(compose)

    def shortlist(self, content: bytes | str) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        self.device.path("/var/lmp/default-apps").write_bytes(data)

    def record_compose_calls(self, *instead: str) -> None:
        """Have each call of compose recorded; lines of shell in `instead` may stop it."""
        plugin = self.device.path(_FIRST_PLUGIN)
        plugin.parent.mkdir(parents=True, exist_ok=True)
        plugin.write_text(_RECORDING_PLUGIN % "\n".join(instead))
        plugin.chmod(0o755)
        self.device.path(RECORDED_CALLS).write_text("")

    def compose_calls(self) -> list[str]:
        """The calls since recording began: folder and arguments."""
        return self.device.path(RECORDED_CALLS).read_text().splitlines()

    def shell(self, script: str) -> str:
        """Run `script` in the device; fails if it does. Returns its standard output."""
        return self.device.run(["sh", "-ec", script]).stdout

    # Running the agent.

    def begin(
        self, *arguments: str, before: Iterable[str] = (), env: Mapping[str, str] | None = None
    ) -> Start:
        """Begin `compose-apps-early-start start`, by the command `before` if there is one."""
        argv = [*before, AGENT, "start", *arguments]
        env = {**QUICK, **(env or {})}
        return Start(self, self.device.popen(argv, env=env, stderr=subprocess.PIPE))

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Run:
        return self.begin(*arguments, env=env).end()

    def start_well(self, *arguments: str, env: Mapping[str, str] | None = None) -> Run:
        """Run the agent, and assert that every app runs and that the log is clean."""
        run = self.start(*arguments, env=env)
        assert_success(run)
        return run

    def record(self) -> dict[str, Any]:
        """What `status --json` shows; {} if no run was recorded."""
        shown = self.device.run([AGENT, "status", "--json"], check=False)
        if shown.returncode == 5:
            assert "there is no record" in shown.stderr
            return {}
        assert shown.returncode in (0, 1, 3, 4), shown.stderr
        record = documents.run(shown.stdout)
        if record["exit_status"] is not None:
            assert shown.returncode == record["exit_status"]
        return record

    def evidence(self, *app: str) -> dict[str, Any]:
        """What `status --log --json` shows."""
        return documents.evidence(
            self.device.run([AGENT, "status", "--json", "--log", *app]).stdout
        )

    def plan(self, *arguments: str) -> dict[str, Any]:
        """What `plan --json` shows."""
        shown = self.device.run([AGENT, "plan", "--json", *arguments])
        assert shown.stderr == ""
        return documents.plan(shown.stdout)

    # What a user sees of the engine.

    def containers(self, app: str | None = None) -> list[dict[str, Any]]:
        """All containers, or those of one compose project, as the Engine API describes them."""
        filters = {"label": f"com.docker.compose.project={app}"} if app else {}
        listed = self.api.containers(all=True, filters=filters)
        return [self.api.inspect_container(each["Id"]) for each in listed]

    def states(self, app: str | None = None) -> dict[str, str]:
        """Container name to state."""
        return {each["Name"][1:]: each["State"]["Status"] for each in self.containers(app)}

    def lives(self, app: str | None = None) -> dict[str, str]:
        """Container id to the time of its last start: the same if nobody touched it."""
        return {each["Id"]: each["State"]["StartedAt"] for each in self.containers(app)}

    def await_event(self, action: str, container: str) -> None:
        """Wait until the container with this name has had that event; past ones count."""
        filters = {"type": ["container"], "container": [container], "event": [action]}
        with contextlib.closing(self.api.events(since=1, filters=filters)) as events:
            next(iter(events))

    def foreign_container(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """Run a container that is no app's, with data in a volume; return its id."""
        words = [f"--label={key}={value}" for key, value in (labels or {}).items()]
        image = self.references["factory/worker"]
        self.api.create_volume(f"{name}-data")
        argv = ["docker", "run", "-d", "--restart=always", f"--name={name}"]
        argv += [f"--volume={name}-data:/data", *words, image]
        identifier = self.device.run(argv).stdout.strip()
        self.device.run(["docker", "exec", name, "sh", "-c", "echo precious >/data/keep"])
        return identifier

    def networks(self, app: str) -> list[str]:
        """The networks of one compose project."""
        label = f"com.docker.compose.project={app}"
        return [each["Name"] for each in self.api.networks(filters={"label": label})]

    def fill_volumes(self, names: Iterable[str]) -> None:
        """Make these volumes, as compose names and labels them, with data in each."""
        for name in names:
            project, _, volume = name.partition("_")
            labels = {
                "com.docker.compose.project": project,
                "com.docker.compose.volume": volume,
            }
            mountpoint = self.api.create_volume(name, labels=labels)["Mountpoint"]
            (self.device.path(mountpoint) / "keep").write_text("precious\n")

    def keepsakes(self) -> set[str]:
        """What no run may take away, whatever a test provokes, dockerd up or not.

        Containers that ever ran, volumes, images and app folders. `may_go` has the exceptions of a
        test.
        """
        docker = self.device.path("/var/lib/docker")
        kept = {f"volume {each.name}" for each in docker.glob("volumes/*") if each.is_dir()}
        kept |= {f"image {each.name}" for each in docker.glob("image/*/imagedb/content/sha256/*")}
        kept |= {f"app {each.name}" for each in self.folder("").glob("*")}
        for file in docker.glob("containers/*/config.v2.json"):
            with contextlib.suppress(FileNotFoundError):  # dockerd replaces the file
                config = json.loads(file.read_bytes())
                if not config["State"]["StartedAt"].startswith("0001-"):
                    kept.add(f"container {config['Name'].lstrip('/')} {config['ID'][:12]}")
        return kept

    def possessions(self) -> dict[str, object]:
        """What no run may take away or change: volumes with data, images, app folders."""
        found: dict[str, object] = {}
        for volume in self.api.volumes()["Volumes"] or ():
            found[f"volume {volume['Name']}"] = contents(self.device.path(volume["Mountpoint"]))
        for image in self.api.images():
            found[f"image {image['Id']}"] = image["RepoDigests"]
        return found | self.possessions_of_apps()

    def possessions_of_apps(self) -> dict[str, object]:
        """What lies in compose-apps: it decides what the device keeps after registration."""
        return {f"compose-apps {name}": each for name, each in contents(self.folder("")).items()}


def contents(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below `folder`: names, kinds, modes, times and bytes."""
    found: dict[str, tuple[object, ...]] = {}
    for parent, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = Path(os.fsdecode(parent), os.fsdecode(name))
            stat = path.lstat()
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            link = str(path.readlink()) if path.is_symlink() else ""
            found[str(path.relative_to(folder))] = (
                oct(stat.st_mode),
                stat.st_mtime_ns,
                hashlib.sha256(data).hexdigest(),
                link,
            )
    return found


def assert_success(run: Run) -> None:
    """Assert that all wanted apps run, and that the log has no warning and no error."""
    assert run.exit_status == 0, run.stderr
    assert run.record["state"] == "ok"
    assert set(run.states.values()) <= {"running"}
    assert_clean(run.stderr)


def assert_clean(stderr: str) -> None:
    """Assert that no line of the log is a warning or an error; those have a hint."""
    signs = ("Next: ", "Traceback", "Warning:", "WARNING", "ERROR", "Exception")
    assert not [line for line in stderr.splitlines() if any(sign in line for sign in signs)]


def limits(**seconds: float) -> dict[str, str]:
    """The environment that sets limits: `limits(app=5)` is EARLY_START_APP_SECONDS=5."""
    return {f"EARLY_START_{name.upper()}_SECONDS": str(value) for name, value in seconds.items()}


QUICK = limits(settle=0.2)
"""For every run: the settling time is the point of few tests, and those set their own."""
