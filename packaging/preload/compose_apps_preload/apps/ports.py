"""Host ports that services publish, and conflicts between them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import yaml

from ..finding import Mark
from ..yaml_tree import mark
from .app import App, Service

_EVERY_ADDRESS = ("", "0.0.0.0")
_PROTOCOLS = ("tcp", "udp", "sctp")


@dataclass(frozen=True)
class Published:
    """A range of host ports that a service publishes; `address` is empty for all addresses."""

    app: App
    service: str
    at: Mark
    address: str
    protocol: str
    first: int
    last: int

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{ports}/{self.protocol}"


def published(app: App, service: Service) -> Iterator[Published]:
    """Yield the host ports that `service` always publishes."""
    if app.value(service.fields, "network_mode") == "host":
        return  # docker ignores them then
    for item in app.items(service.fields, "ports"):
        address, port, target, protocol = _parts(app, item)
        taken, wanted = _range(port), _range(target)
        # From a host range that is larger than the container's, docker takes free ports.
        if not taken or not wanted or taken[1] - taken[0] != wanted[1] - wanted[0]:
            continue
        # A port on all IPv6 addresses does not conflict with the same port on IPv4.
        if protocol in _PROTOCOLS and address != "::":
            address = "" if address in _EVERY_ADDRESS else address
            yield Published(app, str(service), mark(item), address, protocol, *taken)


def _parts(app: App, item: yaml.Node) -> tuple[str, str, str, str]:
    if isinstance(item, yaml.MappingNode):
        fields = app.fields(item, "ports[]")
        address, port, target, protocol = (
            app.value(fields, key) or "" for key in ("host_ip", "published", "target", "protocol")
        )
        known = app.knows(fields, "host_ip", "protocol")
        return address, port if known else "", target, protocol or "tcp"
    short, _, protocol = (app.text(item) or "").partition("/")
    *host, target = short.rsplit(":", 2)
    address, port = ("", *host)[-2:] if host else ("", "")
    return address.strip("[]"), port, target, protocol.lower() or "tcp"


def _range(text: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text, re.ASCII)
    if not found:
        return None
    first, last = int(found[1]), int(found[2] or found[1])
    return (first, last) if 0 < first <= last < 1 << 16 else None


def clashes(ports: Sequence[Published]) -> Iterator[tuple[Published, Published]]:
    """Yield pairs of `ports` that conflict, in their order."""
    order = {id(port): number for number, port in enumerate(ports)}
    # The range that reaches farthest, by protocol and address; None stands for any address.
    farthest: dict[tuple[str, str | None], Published] = {}
    for port in sorted(ports, key=lambda port: port.first):
        rivals = (None,) if not port.address else (port.address, "")
        for rival in rivals:
            other = farthest.get((port.protocol, rival))
            if other and other.last >= port.first:
                first, second = sorted((other, port), key=lambda port: order[id(port)])
                yield first, second
                break
        for address in (port.address, None):
            key = (port.protocol, address)
            if key not in farthest or farthest[key].last < port.last:
                farthest[key] = port
