"""Sample apps and their images, with references by digest as a published app has them.

The images are busybox, pushed to a registry on loopback inside a device and pulled back into an
empty docker store by digest; afterwards no registry exists.
"""

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from virtual_device.cache import cached
from virtual_device.device import Device
from virtual_device.tree import Tree, device_tree

HOST = "hub.example.test"
APPS = Path(__file__).parents[1] / "apps"
# Repository to the command of its image.
IMAGES = {
    "factory/web": ["httpd", "-f", "-p", "80", "-h", "/www"],
    "factory/worker": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"],
    "factory/tool": ["sh", "-c", "echo done"],
}


@dataclass(frozen=True)
class Preload:
    """The data to preload on a device.

    ``docker``: a folder for /var/lib/docker, holding image/ and overlay2/ alone.
    ``references``: repository (``factory/web``) to reference (``host/factory/web@sha256:...``).
    """

    docker: Path
    references: Mapping[str, str]


def preload(tree: Tree) -> Preload:
    """Returns the sample images for ``tree``, as the dockerd of its suite stores them.

    This machine's: dockerd stores images of any architecture. Raises DeviceError.
    """
    base = device_tree(tree.suite)
    # Not of the tree, which may have the agent in it: that makes no difference.
    busybox = device_tree(tree.suite, tree.architecture).layers[-1] / "usr/bin/busybox"

    def build(folder: Path) -> None:
        references = _pulled(base, busybox, tree.architecture, folder / "docker")
        (folder / "references.json").write_text(json.dumps(references))

    inputs = [base.key, str(busybox), Path(__file__).read_text()]
    folder = cached(f"samples-{tree.name}", inputs, build)
    return Preload(folder / "docker", json.loads((folder / "references.json").read_text()))


def _pulled(tree: Tree, busybox: Path, architecture: str, target: Path) -> dict[str, str]:
    references = {}
    with Device(tree, tools=True) as device:
        device.path("/etc/registry.yml").write_text(
            "version: 0.1\nlog: {level: warn}\nhttp: {addr: '127.0.0.1:80'}\n"
            "storage: {filesystem: {rootdirectory: /var/lib/registry}}\n"
        )
        with device.path("/etc/hosts").open("a") as hosts:
            hosts.write(f"127.0.0.1 {HOST}\n")
        with (device.folder / "registry.log").open("w") as log:
            device.popen(["docker-registry", "serve", "/etc/registry.yml"], stdout=log, stderr=log)
        runnable = tree.layers[-1] / "usr/bin/busybox"
        device.path("/tmp/busybox.tar").write_bytes(_busybox(busybox, runnable))
        device.start_dockerd(f"--insecure-registry={HOST}")
        for repository, command in IMAGES.items():
            name = f"{HOST}/{repository}:1"
            change = f"--change=CMD {json.dumps(command)}"
            platform = f"--platform=linux/{architecture}"
            device.run(["docker", "import", platform, change, "/tmp/busybox.tar", name])
            device.run(["docker", "push", "--quiet", name])
            digest = device.run(["docker", "inspect", "--format={{index .RepoDigests 0}}", name])
            references[repository] = digest.stdout.strip()
        device.stop_dockerd()
        device.run(["sh", "-c", "rm -rf /var/lib/docker/*"])
        device.start_dockerd(f"--insecure-registry={HOST}")
        for reference in references.values():
            device.run(["docker", "pull", "--quiet", reference])
        device.stop_dockerd()
        target.mkdir()
        for part in ("image", "overlay2"):
            subprocess.run(["cp", "-a", device.folder / "docker" / part, target], check=True)
    return references


def _busybox(busybox: Path, runnable: Path) -> bytes:
    """Returns an archive of a root file system: the static busybox and a link for each applet.

    ``runnable``: the same busybox for this machine, which lists the applets.
    """
    applets = subprocess.run([runnable, "--list"], check=True, capture_output=True, text=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(busybox, "bin/busybox")
        for applet in applets.stdout.split():
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
        for name, mode in {"tmp": 0o1777, "www": 0o755}.items():
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            archive.addfile(folder)
    return buffer.getvalue()


def publish(compose: str | Mapping[str, object], references: Mapping[str, str]) -> str:
    """Returns the text of a compose file as publishing an app makes it.

    Each ``image: hub.example.test/factory/web`` is pinned to its reference, and each service gets
    the label with the hash of its own YAML. ``compose`` is a compose file's text in block style,
    indented by two, or its content. Raises KeyError for an image without a reference; an image
    that has a digest already stays as it is.
    """
    text = compose if isinstance(compose, str) else "".join(_yaml(compose, ""))

    def pin(match: re.Match[str]) -> str:
        return f"{match[1]}{references[match[2]]}\n"

    image = rf'^( +image: )"?{re.escape(HOST)}/([\w./-]+)(?::[\w.-]+)?"?\n'
    text = re.sub(image, pin, text, flags=re.MULTILINE)
    services = re.search(r"^services:\n((?: .*\n|\n)*)", text, re.MULTILINE)
    if services is None:
        raise ValueError("the compose file has no services")
    labelled = re.sub(r"^  [\w.-]+:\n(?:   .*\n|\n)*", _labelled, services[1], flags=re.MULTILINE)
    return text[: services.start(1)] + labelled + text[services.end(1) :]


def _labelled(match: re.Match[str]) -> str:
    service = match[0]
    label = f"      io.compose-spec.config-hash: {hashlib.sha256(service.encode()).hexdigest()}\n"
    head, labels, tail = service.partition("    labels:\n")
    if labels:
        return head + labels + label + tail
    return service.rstrip("\n") + "\n    labels:\n" + label


def _yaml(value: object, indent: str) -> list[str]:
    """Returns the lines of a mapping in block style; everything else in it is JSON, hence YAML."""
    lines = []
    assert isinstance(value, Mapping)
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            lines += [f"{indent}{key}:\n", *_yaml(item, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {json.dumps(item)}\n")
    return lines


def sample(name: str, references: Mapping[str, str]) -> dict[str, str]:
    """Returns the published bundle of the sample app ``name``: file name to content."""
    folder = APPS / name
    files = {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return files | {"docker-compose.yml": publish(files["docker-compose.yml"], references)}


def install(device: Device, name: str, files: Mapping[str, str]) -> None:
    """Puts an app's bundle into its place on the device, /var/sota/compose-apps/NAME."""
    folder = device.path("/var/sota/compose-apps") / name
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(content)
