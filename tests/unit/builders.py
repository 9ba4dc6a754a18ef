"""What the tests start from: an app, its container, and both as they lie on a device."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from compose_apps_early_start.container import Container
from compose_apps_early_start.preloaded import App, Service
from compose_apps_early_start.selection import Selection
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.shortlist import UnknownName
from compose_apps_early_start.store import Store

HASH = "5" * 64
IMAGE = "hub.example.test/factory/web@sha256:" + "a" * 64
NETWORK = "4c" * 32
"""The id of the network that the containers here are connected to."""

NO_STORE = Store(Path("/var/sota/reset-apps"))
"""The store of a device that has none."""

PUBLISHED = f"""\
services:
  web:
    image: {IMAGE}
    labels:
      io.compose-spec.config-hash: {HASH}
    restart: always
"""
"""A compose file as publishing leaves it."""


def service(
    name: str = "web",
    image: str = IMAGE,
    published_hash: str | None = HASH,
    replicas: int = 1,
) -> Service:
    return Service(name, image, published_hash, replicas)


def app(name: str = "shop", *services: Service, **changes: Any) -> App:
    """A published app; without `services` it has the one called web."""
    folder = Path("/var/sota/compose-apps") / name
    return replace(App(name, folder, name, services or (service(),)), **changes)


def container(of: App | None = None, service: str = "web", **changes: Any) -> Container:
    """A container of the app that has been running for an hour."""
    of = of or app()
    running = Container(
        id=f"id-of-{of.name}-{service}",
        name=f"{of.name}-{service}-1",
        project=of.project,
        folder=str(of.folder),
        service=service,
        image=IMAGE,
        published_hash=HASH,
        state="running",
        exit_code=0,
        health=None,
        restart_policy="always",
        restarts=0,
        up_for=3600.0,
        finished_at="0001-01-01T00:00:00Z",
        networks=((f"{of.project}_default", NETWORK),),
        network_mode=f"{of.project}_default",
    )
    return replace(running, **changes)


def selection(
    *apps: App,
    shortlisted: bool = False,
    unknown: tuple[UnknownName, ...] = (),
    not_apps: tuple[str, ...] = (),
) -> Selection:
    return Selection(shortlisted, apps, unknown, not_apps, NO_STORE)


def preloaded(settings: Settings, name: str, compose_file: str | bytes = PUBLISHED) -> Path:
    """Put an app on the device; return its folder."""
    folder = settings.compose_apps / name
    folder.mkdir(parents=True)
    data = compose_file.encode() if isinstance(compose_file, str) else compose_file
    (folder / "docker-compose.yml").write_bytes(data)
    return folder


def shortlist(settings: Settings, text: str) -> None:
    """Put a default-apps on the device."""
    settings.default_apps.parent.mkdir(parents=True, exist_ok=True)
    settings.default_apps.write_text(text)
