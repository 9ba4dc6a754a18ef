"""Fuzzed compose files, with a stand-in for compose."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compose_apps_early_start import preloaded
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.report import printable
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import Store
from fuzz.fuzzing import Fuzz, Within
from fuzz.mutations import altered, damaged
from hypothesis import strategies as st

HASH = "io.compose-spec.config-hash"
IMAGE = "hub.example.test/factory/web@sha256:" + "a" * 64
PUBLISHED: dict[str, Any] = {
    "name": "shop",
    "networks": {"default": {"name": "shop_default"}},
    "services": {
        "web": {
            "image": IMAGE,
            "labels": {HASH: "5" * 64},
            "ports": ["80:80"],
            "restart": "always",
        },
        "worker": {"image": IMAGE, "labels": [f"{HASH}={'6' * 64}"], "deploy": {"replicas": "2"}},
        "job": {"image": IMAGE, "scale": "0", "profiles": ["debug"], "depends_on": {"web": {}}},
    },
}
TEXT = b"""\
name: shop
services:
  web: &web
    image: %s
    labels: {%s: "%s"}
  worker:
    <<: *web
    deploy: {replicas: 2}
include: [other.yaml]
""" % (IMAGE.encode(), HASH.encode(), b"5" * 64)

TO_THE_POWER = "a0: &a0 [x]\n" + "".join(
    f"a{each}: &a{each} [{', '.join([f'*a{each - 1}'] * 9)}]\n" for each in range(1, 9)
)
HARD = (
    TO_THE_POWER.encode() + b"services: *a8\n",
    b"services: &a {web: {image: *a}}\n",
    b"services: &a {web: *a}\n",
    b"services: {web: " + b"[" * 5000 + b"}",
    b"services: {web: " + b"{a: " * 5000,
    b"services:\n" + b"".join(b" s%d: {image: x}\n" % each for each in range(20_000)),
    b"? [services, web]\n: x\n",
    b"{[a]: b, services: {web: {image: x}}}",
    b"services: {web: {image: !!python/object/apply:os.system [x]}}",
    b"--- {services: {web: {image: x}}}\n--- {services: {web: {image: y}}}\n",
    b"%YAML 9.9\n---\nservices: {web: {image: x}}\n",
    b"%TAG ! tag:x,2000:\n---\nservices: {web: !y {image: x}}\n",
    b"services:\n  web:\n    image: |\n" + b"      x\n" * 100_000,
    b"services: {web: {image: x, deploy: {replicas: 1e3}}}",
    b"services: {web: {image: x, scale: 9999999999999999999999}}",
    b"include: [a.yaml]\n",
    b'services: {"\\ud800": {image: "\\0"}}',
    b"\xff\xfes\0e\0r\0v\0i\0c\0e\0s\0:\0",
)
FILES = st.one_of(
    damaged(TEXT),
    altered(PUBLISHED).map(lambda each: json.dumps(each).encode()),
    damaged(json.dumps(PUBLISHED, indent=1).encode()),
    st.sampled_from(HARD),
    st.sampled_from(HARD).filter(lambda each: len(each) < 5000).flatmap(damaged),
)
NAMES = st.sampled_from(["shop", "shop", "Shop", "shop.2", "---", "a b", "\x1b"])
ENV_FILES = st.sampled_from([None, b"", b"A=1\n", b"COMPOSE_PROFILES=x\n", b"\xff\0"])
ANSWERS = st.one_of(
    st.just(Failure(Cause.COMPOSE_FILE_INVALID, "compose refuses it")),
    st.just(PUBLISHED),
    altered(PUBLISHED),
)
"""What compose says of the app."""


def test_compose_files(fuzz: Fuzz, tmp_path: Path) -> None:
    settings = Settings(root=tmp_path)
    store = Store(settings.reset_apps)

    def check(
        name: str, file: bytes, env_file: bytes | None, sibling: bool, answer: object
    ) -> None:
        shutil.rmtree(settings.compose_apps, ignore_errors=True)
        folder = settings.compose_apps / name
        for each, data in (
            (folder / "docker-compose.yml", file),
            (settings.compose_apps / "other" / "docker-compose.yml", TEXT),
        ):
            each.parent.mkdir(parents=True)
            each.write_bytes(data)
        if env_file is not None:
            (folder / ".env").write_bytes(env_file)
        if sibling:
            (folder / "compose.override.yml").touch()
        asked = []

        def ask(folder: Path) -> Mapping[str, Any] | Failure:
            asked.append(folder.name)
            whole = isinstance(answer, dict) and answer.get("services")
            good = Failure(Cause.COMPOSE_FILE_INVALID, "no service is active")
            # Compose itself is taken at its word as far as its wrapper does.
            return answer if whole or isinstance(answer, Failure) else good  # type: ignore[return-value]

        with Within(tmp_path):
            apps = preloaded.read(settings, (name, "other"), ask, store, {})
        assert [each.name for each in apps] == [name, "other"]
        for app in apps:
            assert app.folder.parent == settings.compose_apps
            if app.failure:
                odd = app.name in asked and answer is not PUBLISHED
                assert odd or app.failure.cause is not Cause.INTERNAL_ERROR, app.failure.message
                assert printable(app.failure.message).isprintable()
                assert len(app.failure.message) < 2000
                continue
            assert preloaded.project_name(app.project) == app.project != ""
            for service in app.services:
                assert isinstance(service.name, str)
                assert service.published_hash is None or isinstance(service.published_hash, str)
                assert service.replicas != 0
            assert all(isinstance(image, str) for image in app.images)

    fuzz(check, NAMES, FILES, ENV_FILES, st.booleans(), ANSWERS)
