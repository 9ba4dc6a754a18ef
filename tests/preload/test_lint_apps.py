"""What `lint-apps` finds in the files of apps, at which line, and what it does not report."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from compose_apps_early_start.settings import Settings
from compose_apps_preload.apps.lint import AGENT_APP_SECONDS, lint, read
from compose_apps_preload.cli import main
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

SAMPLES = Path(__file__).parents[2] / "packaging/device/apps"

Found = tuple[str, str, int, int]
"""Severity, code, line, column."""

DIGEST = "sha256:" + "1" * 64


def app(folder: Path, files: Mapping[str, str | bytes] | str, name: str = "shop") -> Path:
    """An app with these files; a text alone is its docker-compose.yml."""
    for path, content in (
        {"docker-compose.yml": files} if isinstance(files, str) else files
    ).items():
        file = folder / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def found(*folders: Path) -> list[Found]:
    """What is found in apps, whose order is that of their files."""
    return [
        (each.severity.value, each.code, each.at.line, each.at.column)
        for findings in lint(read(folders)).values()
        for each in findings
    ]


def service(text: str, more: str = "") -> str:
    """An app of one service `web`, with an image and a restart policy; `text` begins in line 5."""
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    return f"services:\n  web:\n    image: example.test/web:1\n    restart: always\n{lines}{more}"


def test_the_sample_apps_have_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint-apps", str(SAMPLES)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"{SAMPLES}/{name}/docker-compose.yml: nothing found"
        for name in ("debug-tools", "shop", "telemetry")
    ]


def test_the_agents_limit_is_the_agents() -> None:
    assert Settings().app_seconds == AGENT_APP_SECONDS


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        pytest.param(service(""), [], id="nothing is wrong"),
        # Restart policies and one-shots
        pytest.param(
            "services:\n  web:\n    image: a/b:1\n",
            [("warning", "no-restart", 2, 3)],
            id="no restart policy",
        ),
        pytest.param("services:\n  web:\n    image: a/b:1\n    restart: no\n", [], id="said so"),
        pytest.param(
            "services:\n  web:\n    image: a/b:1\n    deploy: {restart_policy: {condition: any}}\n",
            [],
            id="a restart policy in deploy",
        ),
        pytest.param(
            "x: &x {restart: always}\nservices:\n  web:\n    <<: *x\n    image: a/b:1\n",
            [],
            id="a merged restart policy",
        ),
        pytest.param(
            "services:\n  web:\n    extends: {service: base, file: base.yml}\n",
            [("error", "missing-file", 3, 36)],
            id="what is extended may say all, if it is there",
        ),
        pytest.param(
            service("depends_on: {setup: {condition: service_completed_successfully}}")
            + "  setup:\n    image: a/b:1\n",
            [],
            id="a one-shot",
        ),
        pytest.param(
            service("depends_on: {setup: {condition: service_completed_successfully}}")
            + "  setup:\n    image: a/b:1\n    restart: unless-stopped\n",
            [("error", "one-shot-restarts", 8, 14)],
            id="a one-shot that never ends",
        ),
        pytest.param(
            "services:\n  a: {image: a/b:1, profiles: [debug]}\n  b: {image: a/b:1, scale: 0}\n"
            "  c: {image: a/b:1, deploy: {replicas: 0}}\n",
            [],
            id="services that are not started",
        ),
        # Health checks
        pytest.param(
            service("healthcheck: {test: a, interval: 1m, retries: 3}"), [], id="just in time"
        ),
        pytest.param(
            service("healthcheck:\n  test: a\n  interval: 1m1s\n  retries: 3"),
            [("warning", "slow-health", 5, 5)],
            id="health checks that take long to fail",
        ),
        pytest.param(
            service("healthcheck: {test: a, start_period: 91s}"),
            [("warning", "slow-health", 5, 5)],
            id="a long start, with docker's defaults",
        ),
        pytest.param(
            service("healthcheck: {test: a, interval: 5m}"),
            [("error", "slow-health", 5, 5)],
            id="a first check that comes too late",
        ),
        pytest.param(
            service("healthcheck: {test: a, interval: 5m, start_period: 10s}"),
            [("warning", "slow-health", 5, 5)],
            id="a first check within the start period",
        ),
        pytest.param(
            service("healthcheck: {disable: true, interval: 5m}")
            + "  b:\n    image: a/b:1\n    restart: always\n"
            "    healthcheck: {test: [NONE], interval: 5m}\n",
            [],
            id="no health check",
        ),
        pytest.param(
            service("healthcheck: {test: a, interval: soon, retries: x}"), [], id="no durations"
        ),
        pytest.param(
            service("healthcheck: {test: a, interval: $I, start_period: 3m}"),
            [],
            id="durations that are not known",
        ),
        # Images
        pytest.param(
            "services:\n  web:\n    build: .\n    restart: always\n",
            [("error", "no-image", 2, 3)],
            id="no image",
        ),
        pytest.param(
            service("").replace("example.test/web:1", "redis"),
            [("warning", "no-tag", 3, 12)],
            id="an image of docker's hub without a tag",
        ),
        pytest.param(
            service("").replace("example.test/web:1", "hub.foundries.io/${FACTORY:?}/web"),
            [],
            id="an image of the factory, which CI knows",
        ),
        pytest.param(
            service("labels: {io.compose-spec.config-hash: abc}"),
            [("warning", "not-pinned", 3, 12)],
            id="a published app with an image without a digest",
        ),
        pytest.param(
            service("labels: [io.compose-spec.config-hash=abc]").replace(":1", f"@{DIGEST}"),
            [],
            id="a published app",
        ),
        # Variables
        pytest.param(
            service('command: "${A:?} ${B?say it} $$C ${D:-${E:?}} ${F-x} ${G:+${H:?}} $I"'),
            [("error", "required-variable", 5, 14)] * 3,
            id="variables that compose insists on",
        ),
        pytest.param(
            service("ports:\n- 8080:${PORT-80}\n- ${HOST:-0.0.0.0}:8080:81"),
            [("error", "shared-port", 7, 7)],
            id="variables with defaults",
        ),
        pytest.param(
            service('command: "${A:-${B:-${C:?}}} ${ ${unclosed ${1} $"'),
            [("error", "required-variable", 5, 14)],
            id="what is no variable",
        ),
        # Mounts
        pytest.param(
            service(
                "volumes:\n- /var/run/some.sock:/some.sock\n- /dev/ttyUSB0:/dev/ttyUSB0\n"
                "- /run/user/63:/run/user/63\n- /etc/app.conf:/conf"
            ),
            [("warning", "bind-before-made", line, 7) for line in (6, 7, 8, 9)],
            id="what may come late",
        ),
        pytest.param(
            service(
                "volumes:\n- /etc/localtime:/etc/localtime:ro\n- /var/run/docker.sock:/d\n"
                "- /dev/dri:/dev/dri\n- /sys/class/leds:/leds\n- /usr/share/x.conf:/x.conf\n"
                "- /opt:/opt\n- /:/host\n- /run/dbus/system_bus_socket:/bus\n- /dev/null:/n"
            ),
            [],
            id="what is always there, or cannot be made",
        ),
        pytest.param(
            service("volumes:\n- /var/lib/data:/data\n- ./data:/data\n- ./conf.d/:/etc/x"),
            [("notice", "host-folder", line, 7) for line in (6, 7, 8)],
            id="folders that dockerd makes",
        ),
        pytest.param(
            service("volumes:\n- ./nginx.conf:/etc/nginx\n- ./x:/etc/x.conf\n- ../x:/x"),
            [
                ("error", "missing-file", 6, 7),
                ("error", "missing-file", 7, 7),
                ("error", "outside-app", 8, 7),
            ],
            id="files that the app lacks",
        ),
        pytest.param(
            service(
                "volumes:\n- {type: bind, source: /dev/ttyUSB0, target: /t}\n"
                "- {type: bind, source: ./data, target: /t}\n"
                "- {type: bind, source: /d.sock, target: /t, bind: {create_host_path: true}}\n"
                "- {type: bind, source: /d.sock, target: /t, bind: {create_host_path: false}}\n"
                "- {type: volume, source: d, target: /t}\n- {type: tmpfs, target: /t}\n"
                "- {type: bind, source: ./data, target: /t, bind: {create_host_path: false}}"
            ),
            [
                ("warning", "bind-before-made", 6, 7),
                ("error", "missing-file", 7, 7),
                ("warning", "bind-before-made", 8, 7),
                ("error", "missing-file", 12, 7),
            ],
            id="mounts in their long form",
        ),
        pytest.param(
            service(
                "volumes:\n- data:/data\n- /anonymous\n- ${X}:/y\n- ~/x:/x", "volumes: {data: }\n"
            ),
            [],
            id="volumes, and what is not known",
        ),
        # Other files
        pytest.param(
            service("env_file: a.env\nsecrets: [key]\nconfigs: [{source: c}]")
            + "secrets: {key: {file: ./key}, other: {file: ./other}}\nconfigs: {c: {file: c}}\n",
            [
                ("error", "missing-file", 5, 15),
                ("error", "missing-file", 8, 23),
                ("error", "missing-file", 9, 21),
            ],
            id="files that compose needs",
        ),
        pytest.param(
            service("env_file:\n- {path: a.env, required: false}\n- /etc/b.env\n- path: c.env"),
            [("error", "missing-file", 8, 13)],
            id="env files that need not be there",
        ),
        pytest.param(
            "include: [other.yml]\n", [("error", "include", 1, 1)], id="services elsewhere"
        ),
        # Names
        pytest.param(
            service("", "name: other\n"), [("warning", "project-name", 5, 7)], id="a project's name"
        ),
        pytest.param(service("", "name: Shop.\n"), [], id="the same name"),
        # Within one app
        pytest.param(
            service(
                'ports: ["8080:80", "127.0.0.1:8080:81/tcp", "8080:80/udp", "80", "8000-9000:7"]'
            ),
            [("error", "shared-port", 5, 24)],
            id="a port twice",
        ),
        pytest.param(
            service(
                'ports:\n- "3000-3005:3000-3005"\n- {target: 80, published: "3005"}\n'
                '- "127.0.0.2:4000:1"\n- "127.0.0.3:4000:1"\n- "[::1]:4000:1"\n- "0.0.0.0:4000:1"'
            ),
            [("error", "shared-port", 7, 7), ("error", "shared-port", 11, 7)],
            id="ports in their other forms",
        ),
        pytest.param(
            service('ports: ["80:80", "80:80"]\nnetwork_mode: host'), [], id="ports of the host"
        ),
        pytest.param(
            service(
                'ports:\n- "80:80"\n- {target: 80, published: 80, host_ip: $A}\n- $P:80\n'
                '- "${Q:-127.0.0.1:81}:80"\n- "${R:-}:81:80"'
            ),
            [("error", "shared-port", 10, 7)],
            id="ports that are not known, and some that are",
        ),
        pytest.param(
            service("networks: [a, b, c, d]")
            + "networks:\n  a: {ipam: {config: [{subnet: 10.1.0.0/16}]}}\n"
            "  b: {ipam: {config: [{subnet: 10.1.2.0/24}, {subnet: fd00::/64}]}}\n"
            "  c: {ipam: {config: [{subnet: 10.2.0.0/24}, {subnet: nonsense}]}}\n"
            "  unused: {ipam: {config: [{subnet: 10.2.0.0/24}]}}\n",
            [("error", "shared-subnet", 8, 32)],
            id="subnets that overlap",
        ),
        pytest.param(
            service("networks: [a, b, c]\nvolumes: ['v:/v', 'w:/w']")
            + "networks:\n  a: {external: true}\n  b: {external: {name: shop_default}}\n"
            "  c: {external: true, name: host}\n  d: {external: true}\n"
            "volumes:\n  v: {external: true, name: x}\n  w: {external: false}\n",
            [("warning", "external-network", 8, 3), ("warning", "external-volume", 13, 3)],
            id="external networks and volumes",
        ),
        # The form
        pytest.param(
            service("volumes: ./a:/a ./b:/b\nports: {a: b}"),
            [("error", "wrong-type", 5, 14), ("error", "wrong-type", 6, 12)],
            id="no lists",
        ),
        pytest.param(
            "services:\n  a:\n  b: x\n  c: {image: a/b:1, restart: always}\n",
            [("error", "wrong-type", 2, 3), ("error", "wrong-type", 3, 6)],
            id="no services",
        ),
        pytest.param("services: {}\n", [("error", "no-services", 1, 1)], id="no service"),
        pytest.param("volumes: {}\n", [("error", "no-services", 1, 1)], id="no services at all"),
        pytest.param("- a\n", [("error", "wrong-type", 1, 1)], id="a list"),
        pytest.param("", [("error", "empty", 1, 1)], id="empty"),
        pytest.param("a: [\n", [("error", "yaml", 2, 1)], id="no YAML"),
        pytest.param(
            service("restart: always"), [("error", "duplicate-key", 5, 5)], id="a key twice"
        ),
        pytest.param(
            service("ports: !reset null\nvolumes: !override [a:/a]\nx: 2024-13-45\ny: !z a")
            + "volumes: {a: }\n",
            [],
            id="tags of compose, and values that only Python cannot make",
        ),
    ],
)
def test_lint_apps_finds(tmp_path: Path, text: str, findings: list[Found]) -> None:
    assert found(app(tmp_path, text)) == findings


def test_what_is_in_the_app_is_not_missing(tmp_path: Path) -> None:
    text = service(
        "env_file: [a.env]\nvolumes: ['./site:/www', './nginx.conf:/n.conf', './up/../x.y:/z']"
    )
    files = {
        "docker-compose.yml": text,
        "a.env": "",
        "site/index.html": "",
        "nginx.conf": "",
        "x.y": "",
    }
    assert found(app(tmp_path, files)) == []


def test_what_publishing_leaves_out_is_missing(tmp_path: Path) -> None:
    # As in the vendor's containers.git.
    files = {
        "docker-compose.yml": service("volumes: ['./models:/models', './x.conf:/x.conf']"),
        "models/model.eim": "",
        "x.conf": "",
        "compose.override.yml": "",
        ".env": "COMPOSE_PROJECT_NAME=other\n",
        ".composeappignores": "# but these\n*\n!docker-compose.yml\n!models\n",
    }
    assert found(app(tmp_path, files)) == [("error", "missing-file", 5, 35)]


@pytest.mark.parametrize("pattern", ["[z-a]", "[", "\\", "!", "***", "\xff"])
def test_ignores_that_cannot_be_read_ignore_nothing_else(tmp_path: Path, pattern: str) -> None:
    files: dict[str, str | bytes] = {
        "docker-compose.yml": service("volumes: ['./x.conf:/x.conf']"),
        "x.conf": "",
        ".composeappignores": pattern.encode("latin-1"),
    }
    assert found(app(tmp_path, files)) == ([("error", "missing-file", 5, 15)] * (pattern == "***"))


def test_the_env_file_is_read_as_compose_reads_it(tmp_path: Path) -> None:
    env = b"\xef\xbb\xbf# ports\nexport PORT='8081'\n\n\nCOMPOSE_PROJECT_NAME=Other\n"
    env += b"A=\nB=${PORT}\nC\n"
    text = service('ports: ["${PORT}:80", "8081:81"]\ncommand: "${A?} ${B:?} ${C:?} ${A:?}"')
    folder = app(tmp_path, {"docker-compose.yml": text, ".env": env})
    assert found(folder) == [
        ("error", "shared-port", 5, 27),
        ("error", "required-variable", 6, 14),
        ("warning", "required-variable", 6, 14),
        ("error", "required-variable", 6, 14),
        ("warning", "project-name", 5, 1),
    ]


@pytest.mark.parametrize(
    "content", [b"\xff\xfe=\x00", b"=\n=a\n'\n", b"A='unclosed\n", b"\x00" * 99]
)
def test_a_broken_env_file_sets_nothing(tmp_path: Path, content: bytes) -> None:
    assert found(app(tmp_path, {"docker-compose.yml": service(""), ".env": content})) == []


def test_what_compose_reads_besides_is_told_in_its_own_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "docker-compose.yml": service(""),
        "compose.yaml": "",
        ".env": "\nCOMPOSE_FILE=a.yml\n",
    }
    folder = app(tmp_path, files)
    assert main(["lint-apps", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"{folder}/docker-compose.yml: nothing found\n" in out
    assert (
        f"{folder}/compose.yaml:1:1: warning: compose reads it instead of docker-compose.yml" in out
    )
    assert f"{folder}/.env:2:1: warning: COMPOSE_FILE makes compose read files other" in out


def test_a_folder_whose_name_is_no_project_name(tmp_path: Path) -> None:
    assert found(app(tmp_path, service(""), "My.App")) == [("warning", "project-name", 1, 1)]


# Apps together


def test_what_two_apps_cannot_both_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = service(
        "container_name: web\nports: ['8080:80']\nnetworks: [n]",
        "networks: {n: {ipam: {config: [{subnet: 10.1.0.0/16}]}}}\nname: same\n",
    )
    folders = [app(tmp_path, text, name) for name in ("one", "two")]
    assert main(["lint-apps", *map(str, folders), "--format", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    errors = [each for each in told if each["severity"] == "error"]
    assert [(each["file"], each["code"], each["line"], each["column"]) for each in errors] == [
        (f"{folders[1]}/docker-compose.yml", "shared-name", 5, 21),
        (f"{folders[1]}/docker-compose.yml", "shared-port", 6, 13),
        (f"{folders[1]}/docker-compose.yml", "shared-subnet", 8, 41),
        (f"{folders[1]}/docker-compose.yml", "shared-project", 9, 7),
    ]
    assert f"(app one, {folders[0]}/docker-compose.yml:6)" in errors[1]["message"]


def test_what_one_app_makes_another_may_use(tmp_path: Path) -> None:
    proxy = service("networks: [front]\nvolumes: ['certs:/certs']") + (
        "networks: {front: {name: front}}\nvolumes: {certs: }\n"
    )
    web = service("networks: [a, b]\nvolumes: ['c:/c']") + (
        "networks: {a: {external: true, name: front}, b: {external: true, name: proxy_default}}\n"
        "volumes: {c: {external: true, name: proxy_certs}}\n"
    )
    app(tmp_path, proxy, "proxy")
    app(tmp_path, web, "web")
    assert found(tmp_path) == []


def test_apps_are_named_or_lie_in_the_folder_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("shop", "old.disabled", "tools"):
        app(tmp_path, service(""), name)
    (tmp_path / "image-only").mkdir()
    monkeypatch.chdir(tmp_path / "shop")
    # Twice the same is once.
    assert main(["lint-apps", ".", "..", str(tmp_path / "shop")]) == 0
    assert capsys.readouterr().out == (
        "docker-compose.yml: nothing found\n../tools/docker-compose.yml: nothing found\n"
    )


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_where_there_is_no_app_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert main(["lint-apps", str(tmp_path / name)]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / name) in said
    assert "Next: name" in said


def test_github_shows_a_notice_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = app(tmp_path, service("volumes: ['./data:/data']"))
    assert main(["lint-apps", str(folder), "--format", "github"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"::notice file={folder}/docker-compose.yml,line=5,col=15,title=host-fold"
    )


def test_ten_times_the_input_takes_about_ten_times_as_long(tmp_path: Path) -> None:
    def seconds(size: int) -> float:
        numbers = range(size)
        text = "x: &x {" + ", ".join(f"k{n}: v" for n in range(200)) + "}\nservices:\n"
        text += "".join(
            f"  s{n}: {{<<: *x, image: a/b:1, ports: ['1-9999:1-9999'], networks: [n{n}]}}\n"
            for n in numbers
        )
        text += "networks:\n" + "".join(
            f"  n{n}: {{ipam: {{config: [{{subnet: 10.0.0.0/8}}]}}}}\n" for n in numbers
        )
        apps = read([app(tmp_path, text, f"app-{size}")])
        began = time.process_time()
        assert len(lint(apps)[apps[0].file]) == 3 * size - 2
        return time.process_time() - began

    # Were it quadratic, it would be a hundred times.
    assert seconds(400) < 30 * seconds(40) + 0.1


def test_before_an_image_is_made_its_apps_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system = tmp_path / "lmp.ext4"
    system.touch()
    text = "services: {web: {build: ., volumes: ['./data:/data']}}\n"
    folder = app(tmp_path, text)
    arguments = ["image", str(system), "-o", str(tmp_path / "out.ext4"), "--arch", "arm64"]
    assert main([*arguments, "--no-docker-store", "--app", str(folder)]) == 1
    said = capsys.readouterr().err
    place = f"{folder}/docker-compose.yml:1:12: "
    assert f"{place}warning: service web has no restart policy" in said
    assert f"{place}error: service web has no image" in said
    assert "notice" not in said
    # An empty file is no image; whatever is wrong with it comes after.
    assert said.splitlines()[-1].startswith("compose-apps-preload: ")
    assert not (tmp_path / "out.ext4").exists()


# Anything at all

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
DEEP = "m0: &m0 {a: b}\n" + "".join(f"m{n}: &m{n} {{<<: *m{n - 1}}}\n" for n in range(1, 3000))
WIDE = (
    "m: &m {" + ", ".join(f"k{n}: v" for n in range(2000)) + "}\n"
    "services:\n  web:\n    <<: [" + ", ".join(["*m"] * 2000) + "]\n"
)
TOP = ("services", "networks", "volumes", "configs", "secrets", "name", "include", "<<")
KEYS = st.sampled_from(
    [
        *("web", "image", "restart", "ports", "volumes", "networks", "healthcheck", "depends_on"),
        *("env_file", "labels", "deploy", "extends", "profiles", "configs", "secrets", "external"),
        *(
            "name",
            "source",
            "target",
            "type",
            "published",
            "file",
            "ipam",
            "config",
            "subnet",
            "<<",
        ),
        *("interval", "retries", "start_period", "test", "condition", "replicas", "bind", "path"),
        *("container_name", "network_mode", "external", '"\\e[2J"', '"a\\nb"'),
    ]
)
SCALARS = st.sampled_from(
    [
        *("true", "null", "", "1", "a", "1h", "8080:80", "./a.b:/c", "/dev/x:/y", "10.0.0.0/8"),
        *("host", "bind", "always", "~", '"${A:?}"', "$$", '"${"', "!reset null", "2024-13-45"),
        *('"\\ud800"', '"./\\0.x:/y"', '"a\\e[2J\\n::error::"', "service_completed_successfully"),
        *("22:22", "::1:80:80", "99999:1", "9-1:9-1", "*a"),
    ]
)
FLOWS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        | st.dictionaries(KEYS, inner, max_size=5).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=20,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=40).map(lambda data: b"services:\n  " + data)
    | st.tuples(FLOWS, st.dictionaries(st.sampled_from(TOP), FLOWS, max_size=4)).map(
        lambda drawn: (
            f"x: &a {drawn[0]}\n" + "".join(f"{key}: {value}\n" for key, value in drawn[1].items())
        ).encode()
    )
)
@example(BOMB.encode() + b"services: *a59\n")
@example(DEEP.encode() + b"services: {web: *m2999}\n")
@example(WIDE.encode())
@example(b"services: &s\n  web: &w\n    <<: *w\n    labels: [{a: b}]\n    networks: *s\n")
@example(b"services: {web: {image: a/b:1, volumes: ['./" + b"x" * 300 + b".y:/z']}}\n")
@example(b"services: {web: {healthcheck: {test: a, retries: " + b"9" * 5000 + b"}}}\n")
@example(b"services: {web: {healthcheck: {test: a, interval: " + b"9" * 5000 + b"h}}}\n")
@example(b"services: {web: {command: '" + b"${A:-" * 5000 + b"'}}\n")
def test_anything_is_read_or_told(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "shop"
    folder.mkdir(exist_ok=True)
    (folder / "docker-compose.yml").write_bytes(content)
    for finding in lint(read([folder]))[folder / "docker-compose.yml"]:
        assert finding.message.isprintable()
        assert finding.hint
