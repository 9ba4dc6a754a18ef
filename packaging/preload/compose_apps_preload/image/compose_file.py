"""Pinning the compose file of an app, as publishing does it.

This works on YAML nodes, not on values. PyYAML reads `22:22` and `on` differently from compose, and
both must be written as they were read.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from .. import env_file
from ..apps.app import PUBLISHED_HASH_LABEL
from ..configuration.containers import COMPOSE_FILE
from ..errors import PreloadError
from ..interpolation import VariableError, substitute
from . import skopeo
from .skopeo import Registries

_MERGE = "tag:yaml.org,2002:merge"
_MAP = "tag:yaml.org,2002:map"
_STRING = "tag:yaml.org,2002:str"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_DEPTH = 100  # nested nodes, chains of merges and of `extends`


def pinned(
    text: bytes, folder: Path, variables: Mapping[str, str], registries: Registries
) -> bytes:
    """Return a compose file with every image pinned and every service labelled.

    Raises `PreloadError` where publishing would fail, too.
    """
    name = folder.resolve().name
    root = _parsed(text, name)
    services = _services(root, name)
    if _get(root, "include", name) is not None:
        raise _unpinnable(name, "it includes other files", "write their services into it")
    for scalar in _scalars(root, name):
        _interpolated(scalar.value, variables, name, strict=False)
    found: list[tuple[yaml.Node, yaml.MappingNode, yaml.MappingNode | None, str]] = []
    for key, node in services.value:
        if not isinstance(node, yaml.MappingNode):
            raise _unpinnable(
                name, f"service {key.value!r} is not a mapping", "write at least its image"
            )
        service = _flattened(node, name)
        base = _extended(service, services, folder, variables, name)
        image = _get(service, "image", name) or _get(base, "image", name)
        if not isinstance(image, yaml.ScalarNode) or not image.value:
            raise _unpinnable(
                name,
                f"service {key.value!r} has no image",
                "build its image, push it, and name it with image:",
            )
        found.append((key, service, base, _interpolated(image.value, variables, name, strict=True)))
    references = list(dict.fromkeys(reference for *_, reference in found))
    with registries.threads() as pool:
        pins = pool.map(lambda reference: _pin(reference, name, registries), references)
        pinned_references = dict(zip(references, pins, strict=True))
    made: list[tuple[yaml.Node, yaml.Node]] = []
    for key, service, base, reference in found:
        service.value = [pair for pair in service.value if pair[0].value != "build"]
        _set(service, "image", _scalar(pinned_references[reference]))
        labels = _labels(_get(base, "labels", name), variables, name)
        labels |= _labels(_get(service, "labels", name), variables, name)
        labels.pop(PUBLISHED_HASH_LABEL, None)
        published = hashlib.sha256(yaml.serialize(service, allow_unicode=True).encode())
        labels[PUBLISHED_HASH_LABEL] = published.hexdigest()
        pairs = [(_scalar(label), _scalar(value)) for label, value in labels.items()]
        _set(service, "labels", yaml.MappingNode(_MAP, pairs, flow_style=False))
        made.append((key, service))
    services.value = made
    return str(yaml.serialize(root, allow_unicode=True, width=1 << 20)).encode()


def pinned_services(text: bytes, name: str) -> dict[str, str]:
    """Return each service's image; raises `PreloadError` if one is not pinned."""
    found = {}
    for key, node in _services(_parsed(text, name), name).value:
        image = _get(node, "image", name)
        if not isinstance(image, yaml.ScalarNode) or not skopeo.is_pinned(image.value):
            what = image.value if isinstance(image, yaml.ScalarNode) else "it has no image"
            raise PreloadError(
                f"app {name}: service {key.value!r} is not pinned: {what}",
                "publish the app, which pins each image to a digest",
            )
        found[str(key.value)] = str(image.value)
    return found


def dotenv(folder: Path, name: str) -> Mapping[str, str]:
    """Return the variables of the app's `.env`; raises `PreloadError`."""
    try:
        text = (folder / env_file.ENV_FILE).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise PreloadError(
            f"app {name}: cannot read .env: {error}", "make it a readable UTF-8 file"
        ) from error
    return {assignment.name: assignment.value for assignment in env_file.parse(text)}


def _pin(reference: str, name: str, registries: Registries) -> str:
    try:
        full = skopeo.full(reference)
    except ValueError as error:
        raise _unpinnable(name, f"image {reference!r}: {error}", "correct the image") from error
    if skopeo.is_pinned(full):
        return full
    if "@" in full:
        raise _unpinnable(
            name, f"image {reference!r} has a digest that is not sha256", "use a sha256 digest"
        )
    try:
        digest = skopeo.digest_of(registries.manifest(full))
    except PreloadError as error:
        raise PreloadError(f"app {name}: image {reference!r}: {error}", error.hint) from error
    return f"{skopeo.repository(full)}@{digest}"


def _unpinnable(name: str, why: str, hint: str) -> PreloadError:
    return PreloadError(f"app {name}: its {COMPOSE_FILE} cannot be pinned: {why}", hint)


def _interpolated(text: str, variables: Mapping[str, str], name: str, *, strict: bool) -> str:
    try:
        return substitute(text, variables, strict=strict)
    except VariableError as error:
        raise _unpinnable(
            name,
            f"{text!r}: {error}",
            "set the variable with --env NAME=VALUE, in the environment, or in the app's .env",
        ) from error


# YAML's nodes.


def _parsed(text: bytes, name: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PreloadError(
            f"app {name}: {COMPOSE_FILE} is not valid YAML: {error or 'it is nested too deeply'}",
            "correct the file",
        ) from error


def _services(root: yaml.Node | None, name: str) -> yaml.MappingNode:
    services = _get(root, "services", name)
    if not isinstance(services, yaml.MappingNode) or not services.value:
        raise PreloadError(f"app {name}: {COMPOSE_FILE} has no services", "add a service")
    return services


def _scalars(root: yaml.Node | None, name: str) -> Iterator[yaml.ScalarNode]:
    """Yield every scalar once, except keys, which compose does not interpolate."""
    seen: set[int] = set()
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield node
        elif isinstance(node, yaml.MappingNode):
            nodes += [value for _, value in node.value]
        else:
            nodes += node.value


def _pairs(node: Any, name: str, depth: int = 0) -> list[tuple[yaml.Node, yaml.Node]]:
    """Return the pairs of a mapping with its merge keys (`<<`) expanded."""
    if depth > _MAX_DEPTH:
        raise _unpinnable(name, "an anchor is merged into itself", "remove one of its merge keys")
    if not isinstance(node, yaml.MappingNode):
        return []
    own = [pair for pair in node.value if pair[0].tag != _MERGE]
    keys = {key.value for key, _ in own if isinstance(key, yaml.ScalarNode)}
    for key, value in node.value:
        if key.tag == _MERGE:
            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in sources:
                for pair in _pairs(source, name, depth + 1):
                    if pair[0].value not in keys:
                        keys.add(pair[0].value)
                        own.append(pair)
    return own


def _flattened(node: yaml.MappingNode, name: str) -> yaml.MappingNode:
    # A copy, because two services, or two sets of labels, may be one node by an anchor.
    return yaml.MappingNode(node.tag, _pairs(node, name), flow_style=False)


def _get(node: Any, key: str, name: str) -> Any:
    """Return the value of `key` in a mapping; None without the key, or for another node."""
    return next((value for name_node, value in _pairs(node, name) if name_node.value == key), None)


def _set(node: yaml.MappingNode, key: str, value: yaml.Node) -> None:
    for position, (name, _) in enumerate(node.value):
        if name.value == key:
            node.value[position] = (name, value)
            return
    node.value.append((_scalar(key), value))


def _scalar(text: str) -> yaml.ScalarNode:
    return yaml.ScalarNode(_STRING, text)


def _extended(
    service: yaml.MappingNode,
    services: yaml.MappingNode,
    folder: Path,
    variables: Mapping[str, str],
    name: str,
    depth: int = 0,
) -> yaml.MappingNode | None:
    """Return the service that this one extends, merged with the service which that extends."""
    extends = _get(service, "extends", name)
    if extends is None:
        return None
    if depth > _MAX_DEPTH:
        raise _unpinnable(name, "a service extends itself", "remove one of its extends")
    wanted = extends if isinstance(extends, yaml.ScalarNode) else _get(extends, "service", name)
    other = _get(extends, "file", name)
    if isinstance(other, yaml.ScalarNode):
        file = folder / _interpolated(other.value, variables, name, strict=True)
        try:
            root = _parsed(file.read_bytes(), name)
        except OSError as error:
            raise _unpinnable(
                name,
                f"{other.value}: {error.strerror}",
                "correct the path, which is relative to the app's folder",
            ) from error
        services, folder = _services(root, name), file.parent
    base = _get(services, str(getattr(wanted, "value", "")), name)
    if not isinstance(base, yaml.MappingNode):
        raise _unpinnable(name, "it extends a service that does not exist", "correct the name")
    base = _flattened(base, name)
    deeper = _extended(base, services, folder, variables, name, depth + 1)
    return yaml.MappingNode(_MAP, [*base.value, *(deeper.value if deeper else [])])


def _labels(node: Any, variables: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the labels with their variables replaced, as publishing writes them."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            key, _, value = (
                item.value.partition("=") if isinstance(item, yaml.ScalarNode) else (item, "", "")
            )
            pairs.append((key, value))
    else:
        for key, value in _pairs(node, name):
            pairs.append((key.value, value.value if value.tag != "tag:yaml.org,2002:null" else ""))
    for key, value in pairs:
        if not isinstance(key, str) or not isinstance(value, str):
            raise _unpinnable(
                name,
                "a label has neither the form NAME=VALUE nor NAME: VALUE",
                "write the labels as a mapping of names to strings",
            )
    return {key: _interpolated(value, variables, name, strict=False) for key, value in pairs}
