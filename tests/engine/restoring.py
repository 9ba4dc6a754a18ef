"""A device whose apps come back from the restorable store."""

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import stores
import yaml
from engine.apps import app
from engine.board import AKTUALIZR, COMPOSE_APPS, Board
from stores import Builder, MadeApp, member
from virtual_device import Device, Tree, samples

RESET_APPS = "/var/sota/reset-apps"
INSTALLED_VERSIONS = "/var/sota/import/installed_versions"
STAGING = "/var/sota/.compose-apps-early-start"


def busybox(tree: Tree) -> bytes:
    """A layer with busybox, as a tar archive."""
    program = (tree.layers[-1] / "usr/bin/busybox").read_bytes()
    return stores.tar([member(f"bin/{name}", program, mode=0o755) for name in ("sleep",)])


class StoreBoard(Board):
    """A board with a restorable store; docker's own store has `references`."""

    def __init__(self, device: Device, references: Mapping[str, str]) -> None:
        super().__init__(device, samples.Preload(Path(), references))

    @property
    def store(self) -> Builder:
        return Builder(self.device.path(RESET_APPS))

    def put(
        self,
        name: str,
        services: Mapping[str, str],
        files: Mapping[str, bytes] | None = None,
        *,
        indexed: bool = True,
        **keys: Any,
    ) -> MadeApp:
        """Put an app into the store: its services with the references of their images."""
        content = app(**{each: {"image": image, **keys} for each, image in services.items()})
        text = samples.publish(content, {})
        bundle = {"docker-compose.yml": text.encode(), **(files or {})}
        return self.store.app_of_files(name, bundle, indexed=indexed)

    def installed(self, uris: Mapping[str, str]) -> None:
        """Say which versions belong to the image, as the image build does."""
        apps = {name: {"uri": uri} for name, uri in uris.items()}
        target = {"is_current": True, "custom": {"docker_compose_apps": apps}}
        file = self.device.path(INSTALLED_VERSIONS)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"lmp-42": target}))

    def resolves(self, reference: str) -> bool:
        """Tell whether the engine has the image under this very reference."""
        try:
            self.api.inspect_image(reference)
        except docker.errors.NotFound:
            return False
        return True

    def loads(self) -> list[str]:
        """The digests of all images that dockerd has loaded, by its own events."""
        events = self.api.events(
            since=1,
            until=int(time.time()) + 1,
            filters={"type": ["image"], "event": ["load"]},
            decode=True,
        )
        return [event["Actor"]["ID"] for event in events]

    def compose_apps(self) -> list[str]:
        """Everything that lies in compose-apps, hidden or not."""
        return sorted(each.name for each in self.folder("").iterdir())

    def left_in_staging(self) -> bool:
        return self.device.path(STAGING).exists()

    def up_as_aktualizr_does(self, name: str) -> None:
        argv = ["docker", "compose", "up", "--remove-orphans", "-d"]
        self.device.run(argv, cwd=f"{COMPOSE_APPS}/{name}", env=AKTUALIZR)

    def obstacles(self, uri: str) -> list[str]:
        """Why aktualizr-lite would not adopt the app of this uri; [] if it would.

        Source: facts/device.md, that is `composectl ps`, and aktualizr-lite's own check after an
        `up`: in_store, missing_images, bundle_errors, and the state of each service's container.
        """
        name = uri.rpartition("@")[0].rpartition("/")[2]
        digest = uri.rpartition(":")[2]
        blobs = self.store.blobs
        folder = self.store.folder / "apps" / name / digest
        if not (folder / "uri").is_file() or (folder / "uri").read_text() != uri:
            return ["in_store is false"]
        manifest = json.loads((blobs / digest).read_bytes())
        bundle = manifest["layers"][0]
        found = self._bundle_errors(name, bundle.get("annotations", {}))
        text = (self.folder(name) / "docker-compose.yml").read_text()
        for service, wanted in yaml.safe_load(text)["services"].items():
            if not self.resolves(wanted["image"]):
                found.append(f"missing_images: {wanted['image']}")
            found += self._state(name, service, wanted)
        return found

    def _bundle_errors(self, name: str, annotations: Mapping[str, str]) -> list[str]:
        index = annotations.get("org.foundries.app.bundle.index.digest")
        if index is None or not (self.store.blobs / index.removeprefix("sha256:")).exists():
            return []
        listed = json.loads((self.store.blobs / index.removeprefix("sha256:")).read_bytes())
        errors = []
        for file, digest in listed.items():
            path = self.folder(name) / file
            data = path.read_bytes() if path.is_file() else b""
            if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
                errors.append(f"bundle_errors: {file}")
        return errors

    def _state(self, name: str, service: str, wanted: Mapping[str, Any]) -> list[str]:
        label = "io.compose-spec.config-hash"
        owned = []
        for each in self.containers():
            labels = each["Config"]["Labels"]
            folder = labels.get("com.docker.compose.project.working_dir", "")
            if (
                folder.rpartition("/")[2] == name
                and labels.get("com.docker.compose.service") == service
                and each["Config"]["Image"] == wanted["image"]
                and labels.get(label) == wanted["labels"][label]
            ):
                owned.append(each)
        if not owned:
            return [f"service {service} is missing"]
        return [
            f"{each['Name']} is {each['State']['Status']} in another way than wanted"
            for each in owned
            if each["State"]["Status"] in ("created", "missing", "unknown")
            or each["Config"]["Labels"]["com.docker.compose.project"] != name
        ]


@contextmanager
def store_board(
    tree: Tree, *, containerd: bool = True, preload: samples.Preload | None = None
) -> Iterator[StoreBoard]:
    """A device with an empty restorable store, dockerd not started.

    Its images are in a containerd image store, or in overlay2, where they may be preloaded.
    """
    with Device(tree, preload=preload.docker if preload else None) as device:
        if containerd:
            device.path("/etc/docker").mkdir(exist_ok=True)
            features = {"features": {"containerd-snapshotter": True}}
            device.path("/etc/docker/daemon.json").write_text(json.dumps(features))
        yield StoreBoard(device, preload.references if preload else {})


def skopeo(source: Builder, reference: str, store: Path, folder: str, *options: str) -> str:
    """Copy an image as an image build does, to `folder` of `store`; return its new digest.

    Both are folders of the host: skopeo follows /proc/PID/root out of a device.
    """
    layout = source.folder / "layout"
    digest = reference.rpartition("@")[2]
    document = (source.blobs / digest.removeprefix("sha256:")).read_bytes()
    root = {
        "mediaType": json.loads(document)["mediaType"],
        "digest": digest,
        "size": len(document),
    }
    layout.mkdir(exist_ok=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [root]}))
    target = store / folder
    target.parent.mkdir(parents=True, exist_ok=True)
    argv: list[str | Path] = [
        *("skopeo", "--insecure-policy", "copy", "--quiet", *options),
        *("--src-shared-blob-dir", source.blobs.parent),
        *("--dest-shared-blob-dir", store / "blobs"),
        *(f"oci:{layout}", f"oci:{target}"),
    ]
    subprocess.run(argv, check=True, capture_output=True)
    copied = json.loads((target / "index.json").read_text())
    return str(copied["manifests"][0]["digest"])
