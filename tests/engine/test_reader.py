"""What the agent reads from a compose file by itself is what the real compose makes of it.

Hypothesis writes the files, the device's compose resolves all of them in one loop of its shell, and
the agent's reader, asking compose where it wants to, has to come to the same: project, services,
images and replicas. COMPOSE_FILES in the environment is the number of files.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from compose_apps_early_start import preloaded
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.compose import CONFIG_SECONDS
from compose_apps_early_start.preloaded import App
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import Store
from engine.board import COMPOSE_APPS, Board
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

FILES = int(os.environ.get("COMPOSE_FILES", "300"))

# Each a text as it may stand in a file. Most are ordinary: an odd one in each file would leave
# nothing that compose accepts.


def one_in(number: int) -> st.SearchStrategy[bool]:
    """True once in `number` times. Hypothesis likes the ends of a range better than its middle."""
    return st.integers(0, number - 1).map(lambda drawn: drawn == number // 2)


def mostly(usual: list[str], odd: list[str]) -> st.SearchStrategy[str]:
    return one_in(20).flatmap(lambda is_odd: st.sampled_from(odd if is_odd else usual))


DIGEST = "a" * 64
IMAGE = mostly(
    ["x", "x:1", '"x:1"', "'hub.example.test/x'", f"hub.example.test/f/x@sha256:{DIGEST}"],
    ["", "~", "null", '""', "5", "5.0", "0x1F", "yes", "on", "true", "2026-01-01", "1:30", ".5",
     "$IMG", "x:$TAG", "x:${TAG:-1}", "x:$${TAG}", "${TAG:?}", "!!str 5", "!!str x", "[x]",
     "{a: b}", '"x\\ty"', '"x "', "é", "Null", ">-\n        x", "|\n        x", "*scalar", "&s x"],
)  # fmt: skip
COUNT = mostly(
    ["0", "1", "2", "3", "10"],
    ["", "~", '"2"', "'0'", "02", "010", "0x2", "0o2", "+2", "-1", "2.0", "1e0", "1_0", "true",
     "$N", "${N:-2}", "!!int 2", "!!int '2'", "99999", "[2]", "two", "*number"],
)  # fmt: skip
NAME = mostly(
    ["shop", "plantmon", "x_1-2"],
    ["Shop", "Plant.Mon", '"..."', '""', "", "~", "null", "12", "0x1f", "1e3", "true", "yes",
     "$N", "${N:-x}", '"a b"', "_x", '"-x"', "é", "!!str x", "[x]", "2026-01-01", "x_", "*scalar"],
)  # fmt: skip
LABELS = mostly(
    ["{a: b}", "[a=b]", f"{{io.compose-spec.config-hash: {DIGEST}}}", "[]", "{}", "{a: 1, b: yes}",
     f"[io.compose-spec.config-hash={DIGEST}, a=b=c]", '{a: "$$x"}'],
    ["", "~", "text", "[a]", "[3]", "[{a: b}]", "{a: [b]}", "{a: ~}", "{a: $X}", "[a=$X]",
     "{1: 2}", "*labels", "{<<: *labels}", "[a=b, a=c]"],
)  # fmt: skip
DEPLOY = mostly(
    ["{replicas: 2}", "{replicas: 0}", "{resources: {limits: {cpus: '0.5'}}}", "{}"],
    ["", "~", "[x]", "{replicas: }", "{replicas: '2'}", "{replicas: 02}", "{replicas: $N}",
     "{mode: global}", "{mode: replicated, replicas: 3}", "{mode: ~}", "{labels: {a: b}}",
     "{<<: *deploy}", "*deploy", "{replicas: *number}", "{x-y: z, replicas: 2}"],
)  # fmt: skip
OTHERS = st.sampled_from(
    [
        ("restart", "always"),
        ("restart", "no"),
        ("restart", '"no"'),
        ("environment", "{A: 1, B: $B, C: }"),
        ("environment", "[A=1, B]"),
        ("command", "echo $$HOME"),
        ("command", '["sh", "-c", "sleep 1"]'),
        ("command", ""),
        ("ports", "['8080:80', '22:22']"),
        ("depends_on", "[FIRST]"),
        ("depends_on", "{FIRST: {condition: service_started}}"),
        ("container_name", "mine"),
        ("tty", "yes"),
        ("init", "true"),
        ("volumes", "['data:/data']"),
        ("networks", "[back]"),
        ("build", "."),
        ("stop_grace_period", "1m"),
        ("x-more", "{a: *number}"),
        ("healthcheck", "{test: ['CMD', 'true'], interval: 5s}"),
    ]
)
RARE = st.sampled_from(
    [
        ("profiles", "[debug]"),
        ("profiles", "[]"),
        ("extends", "{service: FIRST}"),
        ("extends", "{file: docker-compose.yml, service: FIRST}"),
        ("extends", "FIRST"),
        ("provider", "{type: model}"),
        ("<<", "*base"),
        ("<<", "[*base, {scale: 2}]"),
        ('"<<"', "*base"),
        ("no_such_key", "x"),
        ("image", "twice"),
        ("? image\n    ", "explicit"),
    ]
)
SERVICE_NAME = mostly(
    ["web", "db", "worker", "a"],
    ["on", "yes", "no", "1", '"1"', "1.5", "true", "~", "null", "0x1", "A", "web.1", '"a b"', "x-y",
     "é", "_", "*scalar ", "2026-01-01", '"web"'],
)  # fmt: skip

ENV_FILES = st.sampled_from(["TAG=1\nN=3\n", "COMPOSE_PROJECT_NAME=e\n", "\ufeffTAG=1\n", "=\n"])

Entries = list[tuple[str, str]]


@dataclass(frozen=True)
class Written:
    """One app: its compose file, `.env`, and how its folder's name begins."""

    compose_file: bytes
    env: str
    prefix: str


@st.composite
def services(draw: st.DrawFn) -> str | Entries:
    if draw(one_in(15)):
        return draw(
            st.sampled_from(["*base", "*base", "", "~", "{}", "text", "[]", "&again {image: y}"])
        )
    entries = [] if draw(one_in(15)) else [("image", draw(IMAGE))]
    for key, value in (("scale", COUNT), ("labels", LABELS), ("deploy", DEPLOY)):
        if draw(one_in(4)):
            entries.append((key, draw(value)))
    entries += draw(st.lists(OTHERS, max_size=2, unique_by=lambda each: each[0]))
    if draw(one_in(8)):
        entries.append(draw(RARE))
    return draw(st.permutations(entries))


ANCHORS = """\
x-base: &base {image: based, labels: {from: base}}
x-number: &number 2
x-scalar: &scalar web
x-labels: &labels {from: labels}
x-deploy: &deploy {replicas: 2}
"""
OTHER_FILE = "services: {included: {image: y, scale: 2}}\n"


@st.composite
def apps(draw: st.DrawFn) -> Written:
    named = draw(st.lists(SERVICE_NAME, min_size=1, max_size=3, unique=not draw(one_in(20))))
    lines = []
    for name in named:
        service = draw(services())
        if isinstance(service, str):
            lines.append(f"  {name}: {service}\n")
        elif draw(st.booleans()):
            lines.append(f"  {name}:\n")
            lines += [f"    {key}: {value}\n" for key, value in service]
        else:
            inner = ", ".join(
                f"{key}: {value}" for key, value in service if "\n" not in key + value
            )
            lines.append(f"  {name}: {{{inner}}}\n")
    if draw(one_in(20)):
        lines.append(draw(st.sampled_from(["  <<: {more: {image: m}}\n", "  <<: *base\n"])))
    body = f"services:\n{''.join(lines)}".replace("FIRST", named[0])
    parts = [ANCHORS if "*" in body or draw(st.booleans()) else "", body]
    parts[0] = parts[0] or (ANCHORS if "*" in "".join(parts) else "")
    if "data:" in body:
        parts.append("volumes: {data: }\n")
    if "[back]" in body:
        parts.append("networks: {back: {}}\n")
    if draw(st.booleans()):
        name = draw(NAME)
        parts.insert(1, f"name: {name}\n")
        if "*" in name:
            parts[0] = ANCHORS
    odd = draw(st.integers(-20, 40))
    before = {1: "---\n", 2: "# comment\n", 3: "%YAML 1.1\n---\n", 4: "%YAML 1.2\n---\n",
              5: "\ufeff", 6: "version: '3'\n", 7: "include: [other.yml]\n", 8: "\n"}  # fmt: skip
    after = {9: "...\n", 10: "---\n", 11: "---\nservices: {late: {image: z}}\n", 12: "# end",
             13: "--- ~\n", 14: "x-end: !!str 5\n", 15: "x-end: !reset 5\n"}  # fmt: skip
    text = before.get(odd, "") + "".join(parts) + after.get(odd, "")
    if odd == 16:
        text = text.replace("\n", "\r\n")
    return Written(
        compose_file=text.encode("utf-16" if odd == 17 else "utf-8"),
        env="" if not draw(one_in(10)) else draw(ENV_FILES),
        prefix=draw(st.sampled_from(["app-"] * 8 + ["App.", "_a-", "a b"])),
    )


def written(number: int) -> list[Written]:
    """The first `number` files that hypothesis thinks of; others in each long run."""
    found: list[Written] = []

    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        derandomize="COMPOSE_FILES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(apps())
    def collect(app: Written) -> None:
        found.append(app)

    collect()
    return found


RESOLVE = """\
mkdir -p /run/resolved
cd /var/sota/compose-apps
resolve() {
    cd "$1"
    /usr/libexec/docker/cli-plugins/docker-compose config --format json \
        >"/run/resolved/$1.json" 2>"/run/resolved/$1.errors" || rm "/run/resolved/$1.json"
    cd ..
}
for half in 0 1; do
    number=0
    for app in *; do
        number=$((number + 1))
        test $((number % 2)) = $half || continue
        resolve "$app"
    done &
done
wait
"""

Resolved = Mapping[str, Any]


@dataclass
class Compared:
    """What became of all files."""

    differences: list[str] = field(default_factory=list)
    asked: int = 0
    refused: int = 0
    decided: int = 0


def services_of(app: App) -> dict[str, tuple[str, int]]:
    return {each.name: (each.image, each.replicas) for each in app.services}


def services_in(document: Resolved) -> dict[str, tuple[str, int]]:
    """The services that get containers, with the image and the number of them."""
    found = {}
    for name, service in document["services"].items():
        deployed = (service.get("deploy") or {}).get("replicas", 1)
        replicas = service.get("scale", deployed)
        if replicas and "provider" not in service:
            found[name] = (service.get("image") or f"{document['name']}-{name}", replicas)
    return found


def compare(name: str, app: App, document: Resolved | None, asked: bool, found: Compared) -> None:
    """Enter into `found` what became of one file; `document` is None if compose refuses it."""
    if app.failure and app.failure.cause is Cause.INTERNAL_ERROR:
        found.differences.append(f"{name}: {app.failure.message}")
    found.asked += asked
    if document is None:  # the reader may say so, or leave it to compose later
        found.refused += 1
        return
    found.decided += not asked
    ours = (app.failure, app.project, services_of(app))
    theirs = (None, document["name"], services_in(document))
    if ours != theirs:
        found.differences.append(f"{name}: read as {ours}, compose says {theirs}")


def answers(folder: Path) -> Callable[[str], Resolved | None]:
    def answer(name: str) -> Resolved | None:
        file = folder / f"{name}.json"
        document: Resolved | None = json.loads(file.read_text()) if file.exists() else None
        return document if document and document.get("services") else None

    return answer


@pytest.mark.timeout(240 + FILES)
def test_the_reader_decides_as_compose_does(shared_board: Board, tmp_path: Path) -> None:
    # The reader follows links, and what a device's paths look like from here is one.
    root = Settings(root=tmp_path)
    names = []
    for number, app in enumerate(written(FILES)):
        name = f"{app.prefix}{number:06}"
        shared_board.preload_raw(name, app.compose_file)
        (shared_board.folder(name) / "other.yml").write_text(OTHER_FILE)
        if app.env:
            (shared_board.folder(name) / ".env").write_text(app.env)
        names.append(name)
    shutil.copytree(shared_board.folder(""), root.compose_apps)
    shared_board.shell(RESOLVE)
    answer = answers(shared_board.device.path("/run/resolved"))
    found = Compared()
    for name in names:
        asked: list[Path] = []

        def ask(folder: Path, asked: list[Path] = asked) -> Resolved | Failure:
            asked.append(folder)
            refused = Failure(Cause.COMPOSE_FILE_INVALID, "refused")
            return answer(folder.name) or refused

        (read,) = preloaded.read(root, (name,), ask, Store(root.reset_apps), {})
        compare(name, read, answer(name), bool(asked), found)
        if found.differences and found.differences[-1].startswith(f"{name}:"):
            text = (shared_board.folder(name) / "docker-compose.yml").read_bytes()
            found.differences[-1] += f"\n{text.decode(errors='replace')}"
    shared_board.shell(f"rm -r {COMPOSE_APPS}/*")
    print(
        f"{len(names)} files: {found.refused} refused by compose, {found.asked} asked about, "
        f"{found.decided} decided by the reader alone, {len(found.differences)} differ"
    )
    assert not found.differences, "\n".join(found.differences[:20])
    # Else the files say nothing.
    assert found.decided > len(names) / 5
    assert found.asked > len(names) / 10


LEVELS = ["{" + ", ".join(f"k{n}: b" for n in range(10)) + "}"] + [
    "{" + ", ".join(f"k{n}: *{above}" for n in range(10)) + "}" for above in "abcde"
]
BOMB = "".join(f"x-{name}: &{name} {level}\n" for name, level in zip("abcdef", LEVELS, strict=True))
"""A million values, of which compose makes some gigabytes."""


def test_a_bomb_in_an_included_file_ends_that_app_alone(shared_board: Board) -> None:
    assert len(BOMB) < 600
    shared_board.shell(f"rm -rf {COMPOSE_APPS}/*")
    shared_board.preload_raw("bomb", b"include: [other.yml]\nservices: {a: {image: x}}\n")
    (shared_board.folder("bomb") / "other.yml").write_text(BOMB + "services: {b: {image: y}}\n")
    shared_board.preload_raw("good", b"services: {a: {image: x}}\n")
    began = time.monotonic()
    bomb, good = shared_board.plan()["apps"]
    assert time.monotonic() - began < 3 * CONFIG_SECONDS
    assert bomb["cause"] == "compose-file-invalid"
    # Which of its two limits it meets first depends on the machine.
    too_long = bomb["message"] == "'docker compose config' took too long"
    too_large = re.search("out of memory|cannot allocate memory", bomb["message"])
    assert too_long or too_large
    assert good["cause"] is None
