"""Services of which the tests make apps. A key that is set to None is left out."""

from typing import Any

from virtual_device.samples import HOST

WORKER = f"{HOST}/factory/worker"
TOOL = f"{HOST}/factory/tool"
ABSENT = f"{HOST}/factory/absent@sha256:{'0' * 64}"

Content = dict[str, Any]


def worker(**keys: Any) -> Content:
    """A service that runs until it is stopped, and has no restart policy."""
    return {"image": WORKER, **keys}


def shell(script: str, **keys: Any) -> Content:
    """A service that runs `script`; in it, `$` has no meaning to compose."""
    return {"image": WORKER, "command": ["sh", "-c", script.replace("$", "$$")], **keys}


def app(top: Content | None = None, **services: Content) -> Content:
    """A compose file: `services`, and what else stands at its `top`."""
    return {"services": services, **(top or {})}


def health(script: str, **keys: Any) -> Content:
    """A health check that runs `script` each second."""
    check = {"test": ["CMD-SHELL", script], "interval": "1s", "timeout": "2s", "retries": 1}
    return {"healthcheck": {**check, **keys}}


def after(service: str, condition: str) -> Content:
    """A dependency on another service of the app."""
    return {"depends_on": {service: {"condition": condition}}}


def waiting_for(path: str) -> Content:
    """An app whose `last` waits for `first`, which ends well once `path` is there on the device.

    So a test decides how long the app takes to come up.
    """
    folder, _, name = path.rpartition("/")
    script = f"trap 'exit 1' TERM; until test -e /awaited/{name}; do sleep 0.1; done"
    return app(
        first=shell(script, volumes=[f"{folder}:/awaited:ro"]),
        last=worker(**after("first", "service_completed_successfully")),
    )
