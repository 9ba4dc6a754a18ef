"""What the apps of a device share: two of them cannot have it, or one needs what another makes."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml

from ..finding import Finding, Mark, Severity
from ..yaml_tree import Entry, flag, is_null, mark, plain, quoted
from . import ports
from .app import App, Service, place

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_BUILT_IN = frozenset(["bridge", "host", "none"])

Found = tuple[App, Finding]


def findings(apps: Sequence[App]) -> Iterator[Found]:
    """Yield what is to be said about `apps` together, each with the app that it concerns."""
    yield from _projects(apps)
    yield from _container_names(apps)
    yield from _ports(apps)
    yield from _subnets(apps)
    yield from _external(apps)


def _where(first: App, second: App, at: Mark) -> str:
    """Return where the other one is, for a person who reads of the second."""
    if first is second:
        return f"line {at.line}"
    return f"app {first.name}, {first.file}:{at.line}"


def _projects(apps: Sequence[App]) -> Iterator[Found]:
    first: dict[str, App] = {}
    for app in apps:
        if app.project is None:
            continue
        other = first.setdefault(app.project, app)
        if other is not app:
            at = place(app.top["name"]) if "name" in app.top else Mark(1, 1)
            yield (
                app,
                Finding(
                    Severity.ERROR,
                    "shared-project",
                    at,
                    f"the apps {other.name} and {app.name} have the same compose project, "
                    f"{quoted(app.project)}: each start of one takes the other's containers for "
                    "its own",
                    "give the app's folder another name, and leave name: out",
                ),
            )


def _container_names(apps: Sequence[App]) -> Iterator[Found]:
    first: dict[str, tuple[App, Service]] = {}
    for app, service in _started(apps):
        name = app.value(service.fields, "container_name")
        if name is None:
            continue
        other, holder = first.setdefault(name, (app, service))
        if holder is not service:
            yield (
                app,
                Finding(
                    Severity.ERROR,
                    "shared-name",
                    place(service.fields["container_name"]),
                    f"service {service} has the container name {quoted(name)}, which service "
                    f"{holder} has ({_where(other, app, holder.at)})",
                    "leave container_name out: compose makes a name of its own for each container",
                ),
            )


def _ports(apps: Sequence[App]) -> Iterator[Found]:
    taken = [port for app, service in _started(apps) for port in ports.published(app, service)]
    for first, second in ports.clashes(taken):
        yield (
            second.app,
            Finding(
                Severity.ERROR,
                "shared-port",
                second.at,
                f"service {second.service} publishes the host port {second}, which service "
                f"{first.service} has ({_where(first.app, second.app, first.at)})",
                "publish it on another port; services of one app need none to reach each other",
            ),
        )


@dataclass(frozen=True)
class _Subnet:
    app: App
    network: str
    at: Mark
    subnet: _Network


def _subnets(apps: Sequence[App]) -> Iterator[Found]:
    found = [
        _Subnet(app, plain(key), mark(node), subnet)
        for app in apps
        for key, entry in _used(app, "networks").items()
        if _external_name(app, key, entry) is None
        for node, subnet in _subnets_of(app, entry)
    ]
    order = {id(candidate): number for number, candidate in enumerate(found)}
    for version in (4, 6):
        widest: _Subnet | None = None
        same = (candidate for candidate in found if candidate.subnet.version == version)
        for candidate in sorted(same, key=lambda candidate: int(candidate.subnet.network_address)):
            if widest and int(widest.subnet.broadcast_address) >= int(
                candidate.subnet.network_address
            ):
                first, second = sorted((widest, candidate), key=lambda subnet: order[id(subnet)])
                yield (
                    second.app,
                    Finding(
                        Severity.ERROR,
                        "shared-subnet",
                        second.at,
                        f"network {second.network} has the subnet {second.subnet}, which overlaps "
                        f"{first.subnet} of network {first.network} "
                        f"({_where(first.app, second.app, first.at)})",
                        "leave ipam out, and docker chooses; or choose a free subnet",
                    ),
                )
            if widest is None or int(widest.subnet.broadcast_address) < int(
                candidate.subnet.broadcast_address
            ):
                widest = candidate


def _subnets_of(app: App, network: Entry) -> Iterator[tuple[yaml.Node, _Network]]:
    ipam = app.below(app.fields(network.node, network.path), "ipam")
    for item in app.items(ipam, "config"):
        fields = app.fields(item, "ipam.config[]")
        text = app.value(fields, "subnet")
        if text is None:
            continue
        try:
            yield fields["subnet"].node, ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue  # with a variable in it, or dockerd tells


def _external(apps: Sequence[App]) -> Iterator[Found]:
    for kind in ("networks", "volumes"):
        made = {name for app in apps for name in _made(app, kind)}
        thing = kind.removesuffix("s")
        for app in apps:
            for key, entry in _used(app, kind).items():
                name = _external_name(app, key, entry)
                if not name or name in made or (kind == "networks" and name in _BUILT_IN):
                    continue
                yield (
                    app,
                    Finding(
                        Severity.WARNING,
                        f"external-{thing}",
                        entry.at,
                        f"the external {thing} {quoted(name)} is made by none of these apps: "
                        "unless the device makes it, the app cannot start",
                        f"leave external out, let another app make it, or make it by a unit before "
                        f"compose-apps-early-start.service: docker {thing} create {name}",
                    ),
                )


def _made(app: App, kind: str) -> Iterator[str]:
    """Yield the names of the networks or volumes that an app makes."""
    if kind == "networks":
        yield f"{app.project}_default"
    for key, entry in _used(app, kind).items():
        if _external_name(app, key, entry) is None:
            fields = app.fields(entry.node, entry.path)
            yield app.value(fields, "name") or f"{app.project}_{key}"


def _external_name(app: App, key: str, entry: Entry) -> str | None:
    """Return the name of what is external; None if it is not, "" if its name is not known."""
    if is_null(entry.node):
        return None
    fields = app.fields(entry.node, entry.path)
    external = fields.get("external")
    if external is None or flag(external.node) is False:
        return None
    legacy = app.below(fields, "external") if isinstance(external.node, yaml.MappingNode) else {}
    for named in (fields, legacy):
        if "name" in named:
            return app.value(named, "name") or ""
    return key


def _used(app: App, kind: str) -> Mapping[str, Entry]:
    """Return the networks or volumes of the top level that a service uses; others are not made."""
    top = app.below(app.top, kind)
    used = {"default"} if kind == "networks" else set()
    for service in app.started:
        if service.extends:
            return top
        if kind == "networks":
            used.update(app.names(service.fields, kind))
            continue
        for item in app.items(service.fields, kind):
            if isinstance(item, yaml.MappingNode):
                used.add(app.value(app.fields(item, "volumes[]"), "source") or "")
            else:
                used.add((app.text(item) or "").partition(":")[0])
    return {key: entry for key, entry in top.items() if key in used}


def _started(apps: Sequence[App]) -> Iterator[tuple[App, Service]]:
    return ((app, service) for app in apps for service in app.started)
