"""What can be restored: which version, files and images, and what the plan makes of it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from compose_apps_early_start import preloaded as reader
from compose_apps_early_start import selection
from compose_apps_early_start.bundle import restore
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.compose import Compose
from compose_apps_early_start.container import State, Storage
from compose_apps_early_start.engine import Engine
from compose_apps_early_start.plan import Action, AppPlan, Step, make
from compose_apps_early_start.preloaded import App
from compose_apps_early_start.preview import Preview, text, to_json
from compose_apps_early_start.restorable import Restorable, find, images, installed_uris
from compose_apps_early_start.settings import Settings
from compose_apps_early_start.store import Image, Store, StoreError
from stores import Builder, MadeApp, MadeImage, composectls, member, sha256, tar
from unit.builders import container, shortlist

ROOT_FS = tar([member("bin/sh", b"program")])


@pytest.fixture
def builder(settings: Settings) -> Builder:
    return Builder(settings.reset_apps)


@pytest.fixture
def image(builder: Builder) -> MadeImage:
    return builder.image("factory/web", [ROOT_FS])


def compose_file(reference: str, **more: str) -> bytes:
    lines = [f"    {key}: {value}\n" for key, value in {"image": reference, **more}.items()]
    return f"services:\n  web:\n{''.join(lines)}".encode()


def stored(
    builder: Builder, content: bytes, name: str = "shop", *, indexed: bool = True
) -> MadeApp:
    return builder.app_of_files(name, {"docker-compose.yml": content}, indexed=indexed)


def preloaded(settings: Settings, content: bytes, name: str = "shop") -> Path:
    folder = settings.compose_apps / name
    folder.mkdir(parents=True)
    (folder / "docker-compose.yml").write_bytes(content)
    return folder


def never(folder: Path) -> Failure:
    pytest.fail(f"compose was asked about {folder}")


def read(settings: Settings, name: str = "shop") -> App:
    store = Store(settings.reset_apps)
    (app,) = reader.read(settings, (name,), never, store, store.versions())
    return app


# Which version belongs to the image


def installed(settings: Settings, content: object) -> None:
    settings.installed_versions.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    settings.installed_versions.write_bytes(data)


def target(uris: dict[str, str], *, current: bool = True) -> dict[str, object]:
    apps = {app: {"uri": uri} for app, uri in uris.items()}
    return {"is_current": current, "custom": {"docker_compose_apps": apps}}


@pytest.mark.parametrize(
    ("content", "uris"),
    [
        ({"lmp-7": target({"shop": "x", "web": "y"})}, {"shop": "x", "web": "y"}),
        ({"lmp-6": target({"shop": "old"}, current=False), "lmp-7": target({"shop": "new"})},
         {"shop": "new"}),
        ({"lmp-6": target({"shop": "old"}, current=False)}, {}),
        ({}, {}),
        ({"lmp-7": {"is_current": True}}, {}),
        ({"lmp-7": {"is_current": True, "custom": {"docker_compose_apps": None}}}, {}),
        ({"lmp-7": {"is_current": True, "custom": {"docker_compose_apps": {"shop": {}}}}}, {}),
        ({"lmp-7": None}, {}),
        ([], {}),
        (b"", {}),
        (b'{"lmp-7": {"is_curr', {}),
        (b"\xff\xfe", {}),
    ],
)  # fmt: skip
def test_what_installed_versions_says(
    settings: Settings, content: object, uris: dict[str, str]
) -> None:
    installed(settings, content)
    assert installed_uris(settings.installed_versions) == uris


def test_without_installed_versions_nothing_is_known(settings: Settings) -> None:
    assert installed_uris(settings.installed_versions) == {}


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(os.mkfifo, id="a FIFO"),
        pytest.param(Path.mkdir, id="a folder"),
        pytest.param(lambda file: file.symlink_to("/dev/zero"), id="a device"),
        pytest.param(lambda file: file.write_bytes(b"[" * 1_000_000), id="nested too deeply"),
        pytest.param(lambda file: file.open("w").truncate(1 << 40), id="a hole"),
    ],
)
def test_whatever_is_in_the_place_of_installed_versions_does_no_harm(
    settings: Settings, make: Callable[[Path], None]
) -> None:
    settings.installed_versions.parent.mkdir(parents=True)
    make(settings.installed_versions)
    assert installed_uris(settings.installed_versions) == {}


ONE, TWO = b"services: {web: {image: one}}", b"services: {web: {image: two}}"


def test_a_store_without_the_app_has_nothing_for_it(settings: Settings) -> None:
    assert find(Store(settings.reset_apps), (), None, settings.compose_apps / "shop") is None


def test_the_only_version_is_taken(settings: Settings, builder: Builder) -> None:
    made = stored(builder, ONE)
    found = read(settings).restorable
    assert found
    assert found.version.uri == made.uri
    assert found.hashes == {"docker-compose.yml": sha256(ONE)}
    assert found.damaged == ("docker-compose.yml",)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("folder", [None, ONE, TWO, b"damaged"])
def test_of_two_versions_the_installed_one_is_taken_whatever_the_folder_is(
    settings: Settings, builder: Builder, number: int, folder: bytes | None
) -> None:
    made = [stored(builder, content) for content in (ONE, TWO)]
    if folder:
        preloaded(settings, folder)
    installed(settings, {"lmp-7": target({"shop": made[number].uri})})
    app = read(settings)
    assert app.restorable
    assert app.restorable.version.uri == made[number].uri
    assert app.from_store is (folder != (ONE, TWO)[number])
    assert app.images == (("one", "two")[number],)


@pytest.mark.parametrize("content", [ONE, TWO])
def test_of_two_versions_that_are_not_told_the_intact_folder_tells(
    settings: Settings, builder: Builder, content: bytes
) -> None:
    made = {each: stored(builder, each) for each in (ONE, TWO)}
    preloaded(settings, content)
    app = read(settings)
    assert app.restorable
    assert app.restorable.version.uri == made[content].uri
    assert not app.from_store


@pytest.mark.parametrize("folder", [None, b"services: {web: {image: three}}"])
def test_two_versions_that_nothing_tells_apart_are_an_error_of_that_app_alone(
    settings: Settings, builder: Builder, folder: bytes | None
) -> None:
    uris = sorted(stored(builder, content).uri for content in (ONE, TWO))
    stored(builder, ONE, "other")
    if folder:
        preloaded(settings, folder)
    store = Store(settings.reset_apps)
    shop, other = reader.read(settings, ("shop", "other"), never, store, store.versions())
    assert shop.failure
    assert shop.failure.cause is Cause.VERSION_UNCLEAR
    assert shop.failure.message.startswith("the store has 2 versions: ")
    assert all(uri in shop.failure.message for uri in uris)
    assert other.failure is None
    assert other.from_store


def test_an_installed_version_that_the_store_lacks_is_not_replaced_by_another(
    settings: Settings, builder: Builder
) -> None:
    stored(builder, ONE)
    installed(settings, {"lmp-7": target({"shop": "hub.example.test/factory/shop@sha256:new"})})
    app = read(settings)
    assert app.failure
    assert app.failure.cause is Cause.COMPOSE_FILE_MISSING
    preloaded(settings, TWO)
    app = read(settings)
    assert app.failure is None
    assert app.restorable is None
    assert app.images == ("two",)


# Folder or store


def test_an_intact_folder_is_used_and_the_store_is_kept_in_mind_for_its_images(
    settings: Settings, builder: Builder
) -> None:
    stored(builder, ONE)
    preloaded(settings, ONE)
    app = read(settings)
    assert not app.from_store
    assert app.restorable
    assert app.restorable.damaged == ()
    assert app.notes == ()


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("folder", [None, b"", b"services: {web: {image: wrong}}", b"["])
def test_what_a_folder_lacks_is_read_out_of_the_bundle(
    settings: Settings, builder: Builder, folder: bytes | None, indexed: bool
) -> None:
    stored(builder, ONE, indexed=indexed)
    if folder is not None:
        preloaded(settings, folder)
    app = read(settings)
    assert app.failure is None
    assert app.from_store
    assert app.images == ("one",)


def test_a_damaged_store_does_not_stop_an_app_that_may_do_without_it(
    settings: Settings, builder: Builder
) -> None:
    made = stored(builder, ONE)
    (builder.blobs / made.manifest).unlink()
    preloaded(settings, TWO)
    app = read(settings)
    assert app.failure is None
    assert app.images == ("two",)
    (note,) = app.notes
    assert note == (
        f"the manifest of app 'shop': blob {made.manifest} is missing in {builder.blobs}"
    )


def remove(blob: Path) -> None:
    blob.unlink()


def empty(blob: Path) -> None:
    blob.write_bytes(b"")


@pytest.mark.parametrize("role", ["manifest", "bundle", "index"])
@pytest.mark.parametrize("spoil", [remove, empty])
def test_an_app_that_is_in_a_damaged_store_only_fails_and_says_which_blob(
    settings: Settings, builder: Builder, role: str, spoil: Callable[[Path], None]
) -> None:
    made = stored(builder, ONE)
    sha = getattr(made, role)
    spoil(builder.blobs / sha)
    app = read(settings)
    if (role, spoil) == ("index", remove):
        # As in stores that were made before there was an index: the bundle tells.
        assert app.failure is None
        assert app.from_store
        return
    assert app.failure
    assert app.failure.cause is Cause.STORE_DAMAGED
    assert sha in app.failure.message


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", Cause.COMPOSE_FILE_INVALID),
        (b"[", Cause.COMPOSE_FILE_INVALID),
        # Publishing resolves them, and compose cannot be asked.
        (b"include: [other.yml]", Cause.COMPOSE_FILE_INVALID),
        (b"services: {a: {image: x}}\n---\n{}", Cause.COMPOSE_FILE_INVALID),
    ],
)
def test_a_compose_file_of_a_bundle_may_be_broken_as_any_other(
    settings: Settings, builder: Builder, content: bytes, cause: Cause
) -> None:
    stored(builder, content)
    failure = read(settings).failure
    assert failure
    assert failure.cause is cause


def test_a_bundle_without_a_compose_file_is_refused(settings: Settings, builder: Builder) -> None:
    builder.app_of_files("shop", {"README": b"x"})
    failure = read(settings).failure
    assert failure
    assert failure.message == "the bundle of app 'shop': there is no docker-compose.yml in it"


# The selection


def test_apps_of_the_store_are_known_names_and_only_wanted_ones_are_read(
    settings: Settings, builder: Builder
) -> None:
    stored(builder, ONE, "shop")
    broken = stored(builder, TWO, "broken")
    (builder.blobs / broken.manifest).unlink()
    preloaded(settings, ONE, "folder-only")
    wanted = selection.select(settings, Compose(settings).config)
    assert [(app.name, app.from_store, bool(app.failure)) for app in wanted.apps] == [
        ("broken", False, True),
        ("folder-only", False, False),
        ("shop", True, False),
    ]
    shortlist(settings, "shop")
    wanted = selection.select(settings, Compose(settings).config)
    assert [(app.name, app.failure) for app in wanted.apps] == [("shop", None)]
    assert wanted.unknown == ()


def test_the_real_store_alone_makes_apps(settings: Settings) -> None:
    settings.reset_apps.parent.mkdir(parents=True)
    composectls(settings.root).rename(settings.reset_apps)
    wanted = selection.select(settings, Compose(settings).config)
    assert {app.name: [service.name for service in app.services] for app in wanted.apps} == {
        "shop": ["web", "worker"],
        "telemetry": ["agent"],
    }
    assert all(app.from_store and not app.failure for app in wanted.apps)
    assert len(wanted.images) == 2


class KnownEngine(Engine):
    """An engine that is asked how it keeps images, once at most."""

    def __init__(self) -> None:
        self.asked = 0

    def storage(self) -> Storage:
        self.asked += 1
        return Storage(True, Path("/var/lib/docker"), "amd64")


def test_only_images_that_the_engine_lacks_are_looked_for_in_the_store(
    settings: Settings, builder: Builder, image: MadeImage
) -> None:
    other = builder.image("factory/other", [ROOT_FS, b"more"])
    (builder.blobs / other.manifest).unlink()
    stored(builder, compose_file(image.reference), "shop")
    stored(builder, compose_file(other.reference), "other")
    wanted = selection.select(settings, Compose(settings).config)
    engine = KnownEngine()
    both = State(frozenset({image.reference, other.reference}))
    assert selection.stored_images(wanted, both, engine) == {}
    assert engine.asked == 0
    found = selection.stored_images(wanted, State(frozenset({other.reference})), engine)
    assert list(found) == [image.reference]
    found = selection.stored_images(wanted, State(frozenset()), engine)
    assert isinstance(found[image.reference], Image)
    assert isinstance(found[other.reference], StoreError)


def test_an_image_that_one_app_cannot_find_may_be_found_for_the_next(
    settings: Settings, builder: Builder, image: MadeImage
) -> None:
    stored(builder, ONE, "a")
    with_copy = stored(builder, TWO, "b")
    copy = with_copy.folder / "images/hub.example.test/factory/web/x/index.json"
    copy.parent.mkdir(parents=True)
    (builder.blobs / image.manifest).rename(copy)
    store = Store(settings.reset_apps)
    versions = [store.versions()[name][0] for name in ("a", "b")]
    for order in (versions, versions[::-1]):
        found = images(store, [(version, [image.reference]) for version in order], "amd64")
        assert isinstance(found[image.reference], Image)


# The plan


def planned(settings: Settings, state: State | None) -> tuple[AppPlan, Preview]:
    wanted = selection.select(settings, Compose(settings).config)
    found = selection.stored_images(wanted, state, KnownEngine()) if state else {}
    plan = make(wanted, state, (), found)
    (only,) = plan.apps
    return only, Preview(plan, settings, None, ())


RESTORE, UP = Step(Action.RESTORE), Step(Action.UP)


def test_everything_that_is_missing_is_put_back_before_compose_is_called(
    settings: Settings, builder: Builder, image: MadeImage
) -> None:
    stored(builder, compose_file(image.reference))
    plan, _ = planned(settings, State(frozenset()))
    load = Step(
        Action.LOAD,
        Store(settings.reset_apps).image(
            image.reference, Store(settings.reset_apps).versions()["shop"][0], "amd64"
        ),
    )
    assert plan.steps == (RESTORE, load, UP)
    assert plan.missing_images == (image.reference,)
    assert plan.failure is None
    assert [action for action in Action if not plan.does(action)] == [Action.RECONNECT]


def test_with_the_images_there_only_the_folder_is_put_back(
    settings: Settings, builder: Builder, image: MadeImage
) -> None:
    stored(builder, compose_file(image.reference))
    plan, _ = planned(settings, State(frozenset({image.reference})))
    assert plan.steps == (RESTORE, UP)


def test_with_the_folder_there_only_the_images_are_loaded(
    settings: Settings, builder: Builder, image: MadeImage
) -> None:
    content = compose_file(image.reference)
    stored(builder, content)
    preloaded(settings, content)
    plan, _ = planned(settings, State(frozenset()))
    assert [step.action for step in plan.steps] == [Action.LOAD, Action.UP]


def test_with_the_engine_not_asked_the_folder_is_planned_alone(
    settings: Settings, builder: Builder, image: MadeImage
) -> None:
    stored(builder, compose_file(image.reference))
    plan, _ = planned(settings, None)
    assert plan.steps == (RESTORE, UP)


@pytest.mark.parametrize("damaged", [True, False])
def test_an_app_that_runs_is_left_alone_unless_its_folder_is_damaged(
    settings: Settings, builder: Builder, image: MadeImage, damaged: bool
) -> None:
    stored(builder, compose_file(image.reference))
    folder = preloaded(settings, compose_file(image.reference)).resolve()
    if damaged:
        (folder / "docker-compose.yml").write_bytes(b"")
    running = container(
        folder=str(folder), project="shop", image=image.reference, published_hash=None
    )
    plan, _ = planned(settings, State(frozenset({image.reference}), (running,), (running,)))
    assert plan.does(Action.RESTORE) is damaged


def test_a_damaged_image_fails_the_app_and_names_the_blob(
    settings: Settings, builder: Builder, image: MadeImage
) -> None:
    stored(builder, compose_file(image.reference))
    (builder.blobs / image.layers[0]).unlink()
    plan, _ = planned(settings, State(frozenset()))
    assert plan.steps == ()
    assert plan.failure == Failure(
        Cause.STORE_DAMAGED, f"image {image.reference}: blob {image.layers[0]} is missing"
    )


def test_an_image_for_another_architecture_is_no_damage_and_not_loaded(
    settings: Settings, builder: Builder
) -> None:
    foreign = builder.image("factory/web", [ROOT_FS], architecture="arm64")
    stored(builder, compose_file(foreign.reference))
    plan, _ = planned(settings, State(frozenset(), ()))
    assert plan.steps == ()
    assert plan.failure == Failure(
        Cause.PLATFORM_MISSING,
        f"image {foreign.reference}: only linux/arm64 is in the store, this device is linux/amd64",
    )


def test_an_image_that_nobody_has_is_missing(settings: Settings) -> None:
    preloaded(settings, ONE)
    plan, _ = planned(settings, State(frozenset()))
    assert plan.failure == Failure(Cause.IMAGE_MISSING, "image one is not on this device")


def test_the_preview_shows_source_version_images_and_sizes(
    settings: Settings, builder: Builder, image: MadeImage
) -> None:
    made = stored(builder, compose_file(image.reference))
    plan, shown = planned(settings, State(frozenset()))
    size = sum(
        (builder.blobs / each).stat().st_size
        for each in (image.manifest, image.config, *image.layers)
    )
    (app,) = to_json(shown)["apps"]
    assert app["source"] == "store"
    assert app["version"] == made.uri
    assert app["images"] == [{"reference": image.reference, "present": False}]
    assert app["steps"] == [
        {"action": "restore"},
        {"action": "load", "image": image.reference, "bytes": size},
        {"action": "up"},
    ]
    folder = settings.compose_apps / "shop"
    assert text(shown).splitlines()[1:] == [
        "  shop: put the app's folder back from the store, then load an image from the store "
        f"({size / 1e6:.1f} MB), then docker compose up",
        f"    from {folder}, put back from {settings.reset_apps}",
        f"    image {image.reference}  MISSING",
    ]
    assert plan.app.from_store


def test_after_it_was_put_back_nothing_of_the_folder_is_to_be_done(
    settings: Settings, builder: Builder, image: MadeImage
) -> None:
    stored(builder, compose_file(image.reference))
    app = read(settings)
    assert isinstance(app.restorable, Restorable)
    restore(
        Store(settings.reset_apps),
        app.restorable.version,
        app.restorable.hashes,
        app.folder,
        settings.staging,
    )
    plan, _ = planned(settings, State(frozenset({image.reference})))
    assert plan.steps == (UP,)
