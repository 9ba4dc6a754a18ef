"""Finding the cause, and the line that says it, in what compose printed."""

import time

import pytest
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.diagnosis import MAX_CHARACTERS, cause_of, diagnose

NETWORK_ID = "4c" * 32
DAEMON = "Error response from daemon: "
SHOP = "/var/sota/compose-apps/shop"
FILE = f"{SHOP}/docker-compose.yml"

# Each as compose 2.26, 2.40 or 5.1 prints it, above dockerd 26, 28 or 29.
MESSAGES = [
    (DAEMON + "No such image: hub.example.test/factory/web@sha256:aa", Cause.IMAGE_MISSING),
    ("Unable to find image 'hub.example.test/web:1' locally", Cause.IMAGE_MISSING),
    (
        DAEMON + "pull access denied for web, repository does not exist or may require "
        "'docker login': denied",
        Cause.REGISTRY_NEEDED,
    ),
    (
        DAEMON + 'Get "https://hub.example.test/v2/": dial tcp: lookup hub.example.test: '
        "no such host",
        Cause.REGISTRY_NEEDED,
    ),
    (
        DAEMON + "failed to resolve reference \"hub.example.test/web:1\": failed to do request",
        Cause.REGISTRY_NEEDED,
    ),
    (
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
        "Is the docker daemon running?",
        Cause.ENGINE_LOST,
    ),
    (
        'error during connect: Get "http://%2Frun%2Fdocker.sock/v1.45/containers/json": EOF',
        Cause.ENGINE_LOST,
    ),
    (
        'Post "http://%2Fvar%2Frun%2Fdocker.sock/v1.45/containers/create": EOF',
        Cause.ENGINE_LOST,
    ),
    ("dial unix /run/docker.sock: connect: connection refused", Cause.ENGINE_LOST),
    ("dial unix /run/docker.sock: connect: no such file or directory", Cause.ENGINE_LOST),
    ("unexpected EOF", Cause.ENGINE_LOST),
    ("no configuration file provided: not found", Cause.COMPOSE_FILE_MISSING),
    (
        f"validating {FILE}: services.web additional properties 'imag' not allowed",
        Cause.COMPOSE_FILE_INVALID,
    ),
    (
        f"validating {FILE}: services.web Additional property imag is not allowed",
        Cause.COMPOSE_FILE_INVALID,
    ),
    ("yaml: line 3: mapping values are not allowed in this context", Cause.COMPOSE_FILE_INVALID),
    (
        'service "web" refers to undefined network back: invalid compose project',
        Cause.COMPOSE_FILE_INVALID,
    ),
    (
        'service "web" depends on undefined service "db": invalid compose project',
        Cause.COMPOSE_FILE_INVALID,
    ),
    ("services.web.image must be a string", Cause.COMPOSE_FILE_INVALID),
    ("services.web conflicting parameters \"extends\" and \"image\"", Cause.COMPOSE_FILE_INVALID),
    # compose 5
    ("dependency cycle detected: web -> db -> web", Cause.COMPOSE_FILE_INVALID),
    ("services must be a mapping", Cause.COMPOSE_FILE_INVALID),
    (
        'services.web.cpus: failed to cast to expected type: strconv.ParseFloat: parsing "two": '
        "invalid syntax",
        Cause.COMPOSE_FILE_INVALID,
    ),
    (
        f'failed to read {SHOP}/web.env: line 2: unexpected character "=" in variable name',
        Cause.COMPOSE_FILE_INVALID,
    ),
    (f"label file {SHOP}/web.labels not found", Cause.COMPOSE_FILE_INVALID),
    (
        'cannot extend service "web" in docker-compose.yml: service "base" not found',
        Cause.COMPOSE_FILE_INVALID,
    ),
    (f"open {SHOP}/other.yml: no such file or directory", Cause.COMPOSE_FILE_INVALID),
    (
        'services.web.healthcheck.test must start either by "CMD", "CMD-SHELL" or "NONE"',
        Cause.COMPOSE_FILE_INVALID,
    ),
    ("invalid hostPort: ${PORT}", Cause.COMPOSE_FILE_INVALID),
    ('services.web.mem_limit: invalid size: "much"', Cause.COMPOSE_FILE_INVALID),
    ('time: unknown unit "days" in duration "3days"', Cause.COMPOSE_FILE_INVALID),
    ('time: missing unit in duration "30"', Cause.COMPOSE_FILE_INVALID),
    # The bomb of aliases, ended by its memory limit.
    ("fatal error: runtime: out of memory", Cause.COMPOSE_FILE_INVALID),
    (
        "error while interpolating services.web.image: required variable TAG is missing a "
        "value: set it",
        Cause.VARIABLE_MISSING,
    ),
    (
        f"env file {SHOP}/web.env not found: stat {SHOP}/web.env: no such file or directory",
        Cause.ENV_FILE_MISSING,
    ),
    ("network backbone declared as external, but could not be found", Cause.NETWORK_MISSING),
    (DAEMON + "network backbone not found", Cause.NETWORK_MISSING),
    ('external volume "data" not found', Cause.VOLUME_MISSING),
    (
        "failed to create network shop_default: " + DAEMON + "could not find an available, "
        "non-overlapping IPv4 address pool among the defaults to assign to the network",
        Cause.SUBNET_TAKEN,
    ),
    (
        "failed to create network shop_default: "
        + DAEMON
        + "all predefined address pools have been fully subnetted",
        Cause.SUBNET_TAKEN,
    ),
    (
        "failed to create network shop_default: "
        + DAEMON
        + "Pool overlaps with other one on this address space",
        Cause.SUBNET_TAKEN,
    ),
    (
        DAEMON + "driver failed programming external connectivity on endpoint shop-web-1 "
        "(ab12): Bind for 0.0.0.0:8080 failed: port is already allocated",
        Cause.PORT_TAKEN,
    ),
    (
        DAEMON + "driver failed programming external connectivity on endpoint shop-web-1 "
        "(ab12): Error starting userland proxy: listen tcp4 0.0.0.0:80: bind: "
        "address already in use",
        Cause.PORT_TAKEN,
    ),
    (
        DAEMON + "failed to set up container networking: driver failed programming external "
        "connectivity on endpoint shop-web-1 (ab12): failed to start userland proxy: exit status 1",
        Cause.PORT_TAKEN,
    ),
    (
        DAEMON + "driver failed programming external connectivity on endpoint shop-web-1 "
        "(ab12): Error starting userland proxy: listen tcp4 192.0.2.1:80: bind: "
        "cannot assign requested address",
        Cause.ADDRESS_MISSING,
    ),
    (
        DAEMON + 'Conflict. The container name "/web" is already in use by container "ab12". '
        "You have to remove (or rename) that container to be able to reuse that name.",
        Cause.NAME_TAKEN,
    ),
    (
        DAEMON + "failed to create task for container: failed to create shim task: OCI "
        'runtime create failed: runc create failed: exec: "nosuch": executable file not '
        "found in $PATH: unknown",
        Cause.START_FAILED,
    ),
    ("exec /bin/tool: exec format error", Cause.START_FAILED),
    (
        DAEMON + 'invalid mount config for type "bind": bind source path does not exist: /data',
        Cause.MOUNT_FAILED,
    ),
    (
        DAEMON + "error while creating mount source path '/data/x': mkdir /data: "
        "read-only file system",
        Cause.MOUNT_FAILED,
    ),
    (
        DAEMON + "failed to create task for container: OCI runtime create failed: runc create "
        'failed: error mounting "/data/a" to rootfs at "/a": not a directory',
        Cause.MOUNT_FAILED,
    ),
    (
        DAEMON + "failed to create task for container: failed to create shim task: OCI runtime "
        "create failed: mount `/etc/hostname` to `bin`: Not a directory: unknown",
        Cause.MOUNT_FAILED,
    ),
    (
        DAEMON + "failed to create task for container: failed to create shim task: OCI runtime "
        "create failed: executable file `nosuch` not found in $PATH: No such file or directory",
        Cause.START_FAILED,
    ),
    (
        DAEMON + 'error gathering device information while adding custom device "/dev/x": '
        "no such file or directory",
        Cause.DEVICE_MISSING,
    ),
    (
        DAEMON + 'could not select device driver "nvidia" with capabilities: [[gpu]]',
        Cause.RUNTIME_MISSING,
    ),
    (DAEMON + "unknown or invalid runtime name: kata", Cause.RUNTIME_MISSING),
    (DAEMON + "Unknown runtime specified kata", Cause.RUNTIME_MISSING),  # docker 20.10
    (DAEMON + "CDI device injection failed: unresolvable CDI devices vendor.com/gpu=all",
     Cause.RUNTIME_MISSING),
    (
        DAEMON + "failed to create task for container: failed to initialize logging driver: "
        "dial tcp 127.0.0.1:24224: connect: connection refused",
        Cause.LOG_DRIVER_FAILED,
    ),
    (DAEMON + "unknown log opt 'max-fil' for json-file log driver", Cause.LOG_DRIVER_FAILED),
    ("dependency failed to start: container shop-db-1 is unhealthy", Cause.DEPENDENCY_FAILED),
    ('service "setup" didn\'t complete successfully: exit 3', Cause.DEPENDENCY_FAILED),
    (DAEMON + f"network {NETWORK_ID} not found", Cause.NETWORK_STALE),
    (
        DAEMON + f"failed to set up container networking: network {NETWORK_ID} not found",
        Cause.NETWORK_STALE,
    ),
    (DAEMON + "mkdir /var/lib/docker/overlay2/ab12: no space left on device", Cause.NO_SPACE),
    (
        DAEMON + "failed to create task for container: OCI runtime create failed: write "
        "/proc/1/x: no space left on device",
        Cause.NO_SPACE,
    ),
    ("fork/exec /usr/bin/runc: cannot allocate memory", Cause.NO_RESOURCES),
    ("runtime: failed to create new OS thread: resource temporarily unavailable",
     Cause.NO_RESOURCES),
    (
        DAEMON + "failed to extract layer sha256:aa: failed to unpack: unexpected EOF",
        Cause.IMAGE_NOT_LOADED,
    ),
    (
        DAEMON + "driver failed programming external connectivity on endpoint shop-web-1 (ab12): "
        "Unable to enable DNAT rule: iptables: No chain/target/match by that name.",
        Cause.FIREWALL_FLUSHED,
    ),
    ("the gods are against it", Cause.COMPOSE_FAILED),
]  # fmt: skip

WARNINGS = (
    'time="2026-11-23T08:00:00Z" level=warning msg="The \\"TAG\\" variable is not set. '
    'Defaulting to a blank string."\n'
    'time="2026-11-23T08:00:00Z" level=warning msg="/shop/docker-compose.yml: the attribute '
    '`version` is obsolete, it will be ignored"\n'
    'time="2026-11-23T08:00:00Z" level=warning msg="Found orphan containers ([shop-old-1]) '
    'for this project."\n'
)
PROGRESS = (
    " Network shop_default  Creating\n"
    " Network shop_default  Created\n"
    ' Volume "shop_data"  Creating\n'
    ' Volume "shop_data"  Created\n'
    " Container shop-web-1  Creating\n"
    " Container shop-web-1  Created\n"
    " Container shop-web-1  Starting\n"
    " Container shop-db-1  Waiting\n"
    " Container shop-db-1  Error\n"
)
# compose 5 leaves one blank.
PROGRESS_5 = " Container shop-web-1 Creating \n Container shop-web-1 Created \n"


@pytest.mark.parametrize(("line", "cause"), MESSAGES)
def test_each_known_message_is_a_cause_whatever_stands_around_it(line: str, cause: Cause) -> None:
    expected = Failure(cause, line)
    assert diagnose(line) == expected
    assert diagnose(f"{WARNINGS}{PROGRESS}{line}\n") == expected
    assert diagnose(f"{PROGRESS_5}{line}\n{PROGRESS_5}") == expected
    assert diagnose(f"\n{line}  \r\n\n{PROGRESS}") == expected
    assert diagnose(f"{PROGRESS}{line}\n{PROGRESS}{PROGRESS_5}") == expected
    assert cause_of(line) is (None if cause is Cause.COMPOSE_FAILED else cause)


@pytest.mark.parametrize(
    ("output", "cause", "message"),
    [
        pytest.param(
            "yaml: unmarshal errors:\n"
            '  line 7: mapping key "image" already defined at line 3\n'
            '  line 9: mapping key "restart" already defined at line 4\n',
            Cause.COMPOSE_FILE_INVALID,
            'yaml: unmarshal errors: line 7: mapping key "image" already defined at line 3 '
            'line 9: mapping key "restart" already defined at line 4',
            id="a duplicate key",
        ),
        pytest.param(
            DAEMON + "driver failed programming external connectivity on endpoint shop-web-1 "
            "(ab12):  (iptables failed: iptables --wait -t nat -A DOCKER -p tcp -d 0/0 "
            "--dport 8080 -j DNAT --to-destination 172.18.0.2:80 ! -i br-1: "
            "iptables: No chain/target/match by that name.\n"
            " (exit status 1))\n",
            Cause.FIREWALL_FLUSHED,
            DAEMON + "driver failed programming external connectivity on endpoint shop-web-1 "
            "(ab12):  (iptables failed: iptables --wait -t nat -A DOCKER -p tcp -d 0/0 "
            "--dport 8080 -j DNAT --to-destination 172.18.0.2:80 ! -i br-1: "
            "iptables: No chain/target/match by that name. (exit status 1))",
            id="flushed firewall chains",
        ),
        pytest.param(
            "failed to create network shop_default: Error response from daemon: Failed to Setup "
            "IP tables: Unable to enable SKIP DNAT rule:\n"
            "(iptables failed: iptables --wait -t nat -I DOCKER -i br-1 -j RETURN: iptables: "
            "No chain/target/match by that name.\n"
            "(exit status 1))\n",
            Cause.FIREWALL_FLUSHED,
            "failed to create network shop_default: Error response from daemon: Failed to Setup "
            "IP tables: Unable to enable SKIP DNAT rule: "
            "(iptables failed: iptables --wait -t nat -I DOCKER -i br-1 -j RETURN: iptables: "
            "No chain/target/match by that name. (exit status 1))",
            id="flushed firewall chains, when the network is made",
        ),
        pytest.param(
            f"validating {FILE}:\nservices.web additional properties 'imag' not allowed\n",
            Cause.COMPOSE_FILE_INVALID,
            f"validating {FILE}: services.web additional properties 'imag' not allowed",
            id="a file that is told a line before what is wrong with it",
        ),
        pytest.param(
            "nobody knows this:\n  and this explains it\n",
            Cause.COMPOSE_FAILED,
            "nobody knows this: and this explains it",
            id="unknown words in two lines",
        ),
    ],
)
def test_what_is_said_in_several_lines_is_told_in_one(
    output: str, cause: Cause, message: str
) -> None:
    for before in ("", WARNINGS, PROGRESS):
        assert diagnose(before + output + PROGRESS) == Failure(cause, message)


@pytest.mark.parametrize("progress", [PROGRESS, PROGRESS_5], ids=["compose 2", "compose 5"])
def test_progress_is_no_message(progress: str) -> None:
    assert diagnose(progress) == Failure(Cause.COMPOSE_FAILED, "compose ended without a word")


def test_what_went_wrong_with_one_container_stands_for_itself() -> None:
    # compose 2.40 tells it twice, the first time among the progress.
    among = " Container shop-db-1  Error dependency db failed to start\n"
    last = "dependency failed to start: container shop-db-1 is unhealthy"
    assert diagnose(f"{WARNINGS}{among}{last}\n") == Failure(Cause.DEPENDENCY_FAILED, last)
    port = f" Container shop-web-1  {DAEMON}Bind for 0.0.0.0:80 failed: port is already allocated"
    assert diagnose(f"{WARNINGS}{port}\n") == Failure(Cause.PORT_TAKEN, port.strip())


def test_the_telling_line_wins_over_what_compose_says_after_it() -> None:
    telling = DAEMON + "Bind for 0.0.0.0:80 failed: port is already allocated"
    assert diagnose(f"{telling}\n Container shop-db-1  Stopping\nexit status 1\n") == Failure(
        Cause.PORT_TAKEN, telling
    )


def test_of_two_causes_the_deeper_one_is_told() -> None:
    deeper = "write /var/lib/docker/tmp/x: no space left on device"
    assert diagnose(f"{deeper}\ndependency failed to start: container db exited (1)") == Failure(
        Cause.NO_SPACE, deeper
    )


def test_of_two_lines_of_one_cause_the_last_is_told() -> None:
    assert diagnose("yaml: line 1: first\nyaml: line 2: second\n").message == "yaml: line 2: second"


@pytest.mark.parametrize("output", ["", "\n \n", "\r\n\r\n"])
def test_silence_is_a_cause_too(output: str) -> None:
    assert diagnose(output) == Failure(Cause.COMPOSE_FAILED, "compose ended without a word")


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("x" * 100_000, Cause.COMPOSE_FAILED),
        ("x" * 100_000 + " port is already allocated", Cause.PORT_TAKEN),
        ("port is already allocated " + "x" * 100_000, Cause.PORT_TAKEN),
        ("x" * 50_000 + " port is already allocated " + "x" * 50_000, Cause.PORT_TAKEN),
    ],
    ids=["unknown", "at its end", "at its beginning", "in its middle"],
)
def test_a_monster_of_a_line_is_understood_and_shortened(line: str, cause: Cause) -> None:
    failure = diagnose(PROGRESS + line)
    assert failure.cause is cause
    assert len(failure.message) <= MAX_CHARACTERS + len(" ... ")
    assert failure.message.startswith(line[:100])
    assert failure.message.endswith(line[-100:])
    assert " ... " in failure.message


def test_of_a_flood_of_words_the_end_is_read_and_soon() -> None:
    began = time.monotonic()
    assert diagnose("y\n" * 2_000_000 + "yaml: line 1: oh").message == "yaml: line 1: oh"
    assert time.monotonic() - began < 5  # all of it would take ten times as long as this


def test_words_of_another_program_are_nobodys_cause() -> None:
    assert cause_of("all is well") is None
