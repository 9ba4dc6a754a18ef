"""What the apps of a device share: conflicts, and networks and volumes that another app makes."""

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
    """Yield the findings about `apps` together, each with the app that it concerns."""
    yield from _projects(apps)
    yield from _container_names(apps)
    yield from _ports(apps)
    yield from _subnets(apps)
    yield from _external(apps)


def _where(first: App, second: App, at: Mark) -> str:
    """Return the place of the first thing, for a message about the second app."""
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
                    f"{quoted(app.project)}: when one starts, compose treats the containers of the "
                    "other as its own",
                    "rename the app's folder, and leave out name:",
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
                    f"service {service} has the same container name {quoted(name)} as service "
                    f"{holder} ({_where(other, app, holder.at)})",
                    "leave out container_name, so that compose gives each container its own name",
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
                f"service {second.service} publishes the same host port {second} as service "
                f"{first.service} ({_where(first.app, second.app, first.at)})",
                "publish it on another port; services of one app reach each other without one",
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
                        "leave out ipam, so that docker chooses; or choose a free subnet",
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
            continue  # it has a variable in it, or dockerd reports it


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
                        f"none of these apps creates the external {thing} {quoted(name)}: unless "
                        "the device creates it, the app cannot start",
                        "leave out external, let another app create it, or create it in a unit "
                        f"before compose-apps-early-start.service: docker {thing} create {name}",
                    ),
                )


def _made(app: App, kind: str) -> Iterator[str]:
    """Yield the names of the networks or volumes that an app creates."""
    if kind == "networks":
        yield f"{app.project}_default"
    for key, entry in _used(app, kind).items():
        if _external_name(app, key, entry) is None:
            fields = app.fields(entry.node, entry.path)
            yield app.value(fields, "name") or f"{app.project}_{key}"


def _external_name(app: App, key: str, entry: Entry) -> str | None:
    """Return the name of an external entry; None if it is not external, "" if it is unknown."""
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
    """Return the top-level networks or volumes that a service uses; others are not created."""
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
