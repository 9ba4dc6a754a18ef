"""Pure: finding the cause in the messages of compose and dockerd.

Since compose 2.33, every failure has exit status 1, so only the message distinguishes them. Unknown
messages become `Cause.COMPOSE_FAILED`, which may pass by waiting: this is the mildest treatment.
"""

import re

from .cause import Cause, Failure

MAX_CHARACTERS = 400
"""The maximum length of a message, which has to fit into a line of the journal."""

MAX_READ = 1 << 18
"""How many characters at the end of compose's output are searched; each pattern reads them all."""

_WORDS = tuple(
    (re.compile(pattern, re.IGNORECASE), cause)
    for pattern, cause in (
        (r"no space left on device|disk quota exceeded", Cause.NO_SPACE),
        # Compose itself, within the memory that it may have.
        (r"runtime: out of memory|runtime: cannot allocate memory", Cause.COMPOSE_FILE_INVALID),
        (r"cannot allocate memory|resource temporarily unavailable|too many open files",
         Cause.NO_RESOURCES),
        (r"/var/lib/(docker|containerd)\S*: read-only file system", Cause.READ_ONLY),
        (r"failed to extract layer|error unpacking image", Cause.IMAGE_NOT_LOADED),
        (r"cannot connect to the docker daemon|error during connect|connection reset by peer"
         r"|docker\.sock.*(: EOF|connection refused|no such file)|unexpected EOF",
         Cause.ENGINE_LOST),
        (r"no such image|unable to find image", Cause.IMAGE_MISSING),
        (r"logging driver|log driver|log[- ]opt", Cause.LOG_DRIVER_FAILED),
        (r"pull access denied|failed to resolve reference|https?://\S+/v2/"
         r"|TLS handshake timeout", Cause.REGISTRY_NEEDED),
        # A container refers to its network by id, a compose file by name.
        (r"network [0-9a-f]{64} not found|network-scoped alias .* but .* network",
         Cause.NETWORK_STALE),
        (r"network .* declared as external, but could not be found|network \S+ not found",
         Cause.NETWORK_MISSING),
        (r"external volume .* not found", Cause.VOLUME_MISSING),
        (r"required variable \S+ is missing a value", Cause.VARIABLE_MISSING),
        (r"env file .* not found", Cause.ENV_FILE_MISSING),
        (r"could not find an available, non-overlapping|pool overlaps with other one"
         r"|all predefined address pools have been fully subnetted", Cause.SUBNET_TAKEN),
        (r"cannot assign requested address", Cause.ADDRESS_MISSING),
        (r"port is already allocated|address already in use|failed to start userland proxy",
         Cause.PORT_TAKEN),
        (r"container name \S+ is already in use", Cause.NAME_TAKEN),
        (r"iptables failed|no chain/target/match by that name", Cause.FIREWALL_FLUSHED),
        (r"dependency failed to start|didn't complete successfully", Cause.DEPENDENCY_FAILED),
        (r"no configuration file provided", Cause.COMPOSE_FILE_MISSING),
        (r"validating .*:|yaml: |invalid (interpolation|compose|reference|hostPort|containerPort)"
         r"|undefined (network|volume|service|config|secret)"
         r"|depends on undefined|services\.\S+ (must|additional|conflicting)"
         r"|refers to undefined|empty compose file|additional propert|services must be a mapping"
         r"|dependency cycle detected|failed to cast to expected type|failed to read \S+: line"
         r"|label file .* not found|cannot extend service|healthcheck\.test must start"
         r"|invalid size: |time: (unknown|missing|invalid)|^open /.*: no such file or directory$",
         Cause.COMPOSE_FILE_INVALID),
        (r"could not select device driver|unknown (or invalid runtime name|runtime specified)"
         r"|unresolvable CDI devices", Cause.RUNTIME_MISSING),
        (r"error gathering device information", Cause.DEVICE_MISSING),
        (r"bind source path does not exist|invalid mount config|error mounting "
         r"|error while creating mount source path|failed to mount local volume"
         r"|oci runtime create failed: mount ",  # crun
         Cause.MOUNT_FAILED),
        (r"oci runtime create failed|failed to create (shim )?task|exec format error",
         Cause.START_FAILED),
    )
)  # fmt: skip

_OF_ONE = r"\s*(Container|Network|Volume|Image|Service)\s+\S+\s+"
_PROGRESS = re.compile(
    _OF_ONE
    + r"(Creat|Start|Runn|Wait|Health|Exit|Recreat|Stopp|Remov|Pull|Skipp|Build|Built|Error)\w*\s*$"
)


def diagnose(output: str) -> Failure:
    """Return the failure that compose's output describes, with the relevant part as its message."""
    sentences = _sentences(output[-MAX_READ:])
    for pattern, cause in _WORDS:
        for sentence in reversed(sentences):
            if pattern.search(sentence):
                return Failure(cause, _shortened(sentence))
    message = sentences[-1] if sentences else "compose ended without a word"
    return Failure(Cause.COMPOSE_FAILED, _shortened(message))


def cause_of(words: str) -> Cause | None:
    """Return the cause that dockerd's message `words` describes; None if it is unknown."""
    return next((cause for pattern, cause in _WORDS if pattern.search(words)), None)


def _sentences(output: str) -> list[str]:
    """Return compose's messages without its progress lines; continued lines are joined."""
    sentences: list[str] = []
    for line in output[-MAX_READ:].splitlines():
        if not line.strip() or _PROGRESS.fullmatch(line):
            continue
        # The error of a container is indented between the progress lines.
        indented = line[0].isspace() and not re.match(_OF_ONE, line)
        continues = indented or line.startswith("(")
        if sentences and (continues or sentences[-1].endswith(":")):
            sentences[-1] += f" {line.strip()}"
        else:
            sentences.append(line.strip())
    return sentences


def _shortened(sentence: str) -> str:
    if len(sentence) <= MAX_CHARACTERS:
        return sentence
    half = MAX_CHARACTERS // 2
    return f"{sentence[:half]} ... {sentence[-half:]}"
