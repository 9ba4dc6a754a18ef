"""Reading the preloaded apps and their compose files, harmful ones among them."""

import errno
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.errors import EarlyStartError
from compose_apps_early_start.preloaded import (
    MAX_BYTES,
    MAX_DEPTH,
    App,
    AskCompose,
    Listing,
    Service,
    listing,
    read,
)
from compose_apps_early_start.settings import Settings
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture
from unit.builders import HASH, IMAGE, NO_STORE, PUBLISHED, preloaded


class AskedCompose:
    """Stands for `docker compose config`; remembers for which apps it was asked."""

    def __init__(self, answer: Mapping[str, Any] | Failure) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def __call__(self, folder: Path) -> Mapping[str, Any] | Failure:
        self.asked.append(folder.name)
        return self.answer


class AskedInVainError(BaseException):
    """Compose was asked where the file alone must do. No `Exception`: the reader takes those."""


def never(folder: Path) -> Failure:
    """Stands for compose where the file alone must do."""
    raise AskedInVainError(str(folder))


def read_apps(settings: Settings, names: tuple[str, ...], ask: AskCompose) -> tuple[App, ...]:
    """What the reader makes of apps on a device without a store."""
    return read(settings, names, ask, NO_STORE, {})


def read_one(settings: Settings, compose_file: str | bytes, name: str = "shop") -> App:
    """What the reader makes of one app, compose not being asked."""
    preloaded(settings, name, compose_file)
    return read_apps(settings, (name,), never)[0]


def refused(settings: Settings, compose_file: str | bytes) -> str:
    """The message with which a compose file is refused."""
    app = read_one(settings, compose_file)
    assert app.failure
    assert app.failure.cause is Cause.COMPOSE_FILE_INVALID
    assert app.services == ()
    return app.failure.message


# The folder of the apps


def test_folders_are_apps_and_everything_else_is_no_app(settings: Settings) -> None:
    for name in ("web", "Shop", "a b", ".hidden"):
        (settings.compose_apps / name).mkdir(parents=True)
    (settings.compose_apps / "README").touch()
    (settings.compose_apps / "dangling").symlink_to("nowhere")
    (settings.compose_apps / "circle").symlink_to("circle")
    os.mkfifo(settings.compose_apps / "pipe")
    assert listing(settings) == Listing(
        apps=("Shop", "a b", "web"), not_apps=(".hidden", "README", "circle", "dangling", "pipe")
    )


def test_a_link_to_a_folder_is_listed_so_that_it_can_be_reported(settings: Settings) -> None:
    (settings.compose_apps / "web").mkdir(parents=True)
    (settings.compose_apps / "link").symlink_to("web")
    assert listing(settings).apps == ("link", "web")


def test_names_that_are_no_text_are_listed(settings: Settings) -> None:
    settings.compose_apps.mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(settings.compose_apps) + b"/caf\xe9")).mkdir()
    assert listing(settings).apps == ("caf\udce9",)


def test_no_folder_means_no_apps(settings: Settings) -> None:
    assert listing(settings) == Listing()


def test_a_file_in_its_place_is_an_error(settings: Settings) -> None:
    settings.compose_apps.parent.mkdir(parents=True)
    settings.compose_apps.touch()
    with pytest.raises(EarlyStartError) as raised:
        listing(settings)
    assert str(raised.value) == (
        f"{settings.compose_apps}: cannot list the preloaded apps: Not a directory"
    )
    assert raised.value.hint == "run it as root; it must be a folder"


# A published app


def test_a_published_file_is_read_without_compose(settings: Settings) -> None:
    folder = preloaded(settings, "shop")
    assert read_apps(settings, ("shop",), never) == (
        App("shop", folder, "shop", (Service("web", IMAGE, HASH),)),
    )


def test_apps_come_in_the_order_of_the_names(settings: Settings) -> None:
    for name in ("a", "b", "c"):
        preloaded(settings, name)
    assert [each.name for each in read_apps(settings, ("c", "a"), never)] == ["c", "a"]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        pytest.param(f"{{io.compose-spec.config-hash: {HASH}}}", HASH, id="a mapping"),
        pytest.param(f"[a=b, io.compose-spec.config-hash={HASH}]", HASH, id="a list"),
        pytest.param("[io.compose-spec.config-hash=a=b]", "a=b", id="an equals sign in the value"),
        pytest.param("{a: 1}", None, id="other labels only"),
        pytest.param("[a, 3, null]", None, id="labels without a value"),
        pytest.param("[]", None, id="an empty list"),
        pytest.param("{}", None, id="an empty mapping"),
    ],
)
def test_the_published_hash_is_in_the_labels(
    settings: Settings, labels: str, found: str | None
) -> None:
    app = read_one(settings, f"services: {{web: {{image: x, labels: {labels}}}}}")
    assert app.services == (Service("web", "x", found),)


@pytest.mark.parametrize(
    ("compose_file", "services"),
    [
        pytest.param(
            "services: {b: {image: y}, a: {image: x}}",
            [("b", "y"), ("a", "x")],
            id="several services, in the file's order",
        ),
        pytest.param(
            "services: {a: {image: x, restart: no}}",
            [("a", "x")],
            id="restart: no, which YAML reads as false",
        ),
        pytest.param(
            "services: {a: {build: .}}", [("a", "shop-a")], id="an image that would be built"
        ),
        pytest.param("services: {a: {}}", [("a", "shop-a")], id="a service without a word"),
        pytest.param(
            "services: {on: {image: x}, 1: {image: y}}",
            [("on", "x"), ("1", "y")],
            id="names that YAML 1.1 reads as other than text",
        ),
        pytest.param(
            "x-base: &base {image: x}\nservices: {a: *base, b: *base}",
            [("a", "x"), ("b", "x")],
            id="aliases",
        ),
        pytest.param(
            "services: {a: {image: x, command: 'echo $$HOME', environment: {A: $B}}}",
            [("a", "x")],
            id="a dollar sign where it changes neither images nor services",
        ),
        pytest.param("services:\r\n  a:\r\n    image: x\r\n", [("a", "x")], id="CRLF"),
        pytest.param("---\nservices: {a: {image: x}}\n...\n", [("a", "x")], id="its own document"),
    ],
)
def test_services_and_their_images(
    settings: Settings, compose_file: str, services: list[tuple[str, str]]
) -> None:
    app = read_one(settings, compose_file)
    assert app.failure is None
    assert [(each.name, each.image) for each in app.services] == services


@pytest.mark.parametrize(
    ("content", "replicas"),
    [
        ("image: x", 1),
        ("image: x, scale: 3", 3),
        ("image: x, scale: '3'", 3),
        ("image: x, deploy: {replicas: 2}", 2),
        ("image: x, deploy: {}", 1),
        ("image: x, deploy: {resources: {limits: {cpus: '1'}}}", 1),
        ("image: x, deploy: {resources: {}}, scale: 4", 4),
    ],
)
def test_how_many_containers_a_service_has(settings: Settings, content: str, replicas: int) -> None:
    app = read_one(settings, f"services: {{web: {{{content}}}}}")
    assert app.services == (Service("web", "x", None, replicas),)


@pytest.mark.parametrize("content", ["scale: 0", "scale: '0'", "deploy: {replicas: 0}"])
def test_a_service_of_no_container_is_none(settings: Settings, content: str) -> None:
    app = read_one(settings, f"services: {{a: {{image: x, {content}}}, b: {{image: y}}}}")
    assert app.services == (Service("b", "y", None),)


@pytest.mark.parametrize(
    ("content", "services"),
    [
        ({"image": "x"}, (Service("web", "x", None),)),
        ({"image": "x", "scale": 2}, (Service("web", "x", None, 2),)),
        ({"image": "x", "deploy": {"replicas": 3}}, (Service("web", "x", None, 3),)),
        ({"image": "x", "deploy": {"replicas": 3}, "scale": 3}, (Service("web", "x", None, 3),)),
        ({"image": "x", "deploy": None, "labels": None}, (Service("web", "x", None),)),
        ({"image": "x", "scale": 0}, ()),
        ({"image": "x", "deploy": {"replicas": 0}}, ()),
        ({"provider": {"type": "model"}}, ()),
        ({"build": {"context": "."}}, (Service("web", "x-web", None),)),
        (None, (Service("web", "x-web", None),)),
    ],
)
def test_what_is_read_from_composes_answer(
    settings: Settings, content: object, services: tuple[Service, ...]
) -> None:
    preloaded(settings, "shop", "include: [other.yml]")
    compose = AskedCompose({"name": "x", "services": {"web": content}})
    assert read_apps(settings, ("shop",), compose)[0].services == services


def test_an_image_of_two_services_counts_once(settings: Settings) -> None:
    app = read_one(settings, "services: {a: {image: x}, b: {image: y}, c: {image: x}}")
    assert app.images == ("x", "y")


def test_an_app_lies_where_compose_will_say_that_it_does(settings: Settings) -> None:
    # Compose resolves links on the way to the folder, and labels the containers with the result.
    (settings.root / "var").mkdir()
    (settings.root / "data").mkdir()
    (settings.root / "var/sota").symlink_to("../data")
    preloaded(settings, "shop")
    (app,) = read_apps(settings, ("shop",), never)
    assert app.folder == settings.root / "data/compose-apps/shop"


# The name of the compose project


@pytest.mark.parametrize(
    ("folder", "compose_file", "project", "noted"),
    [
        pytest.param("shop", PUBLISHED, "shop", False, id="the folder's name"),
        pytest.param("my_shop-2", PUBLISHED, "my_shop-2", False, id="with all that is allowed"),
        pytest.param("Shop", PUBLISHED, "shop", True, id="lower-cased"),
        pytest.param("a b.c", PUBLISHED, "abc", True, id="stripped"),
        pytest.param("_-shop", PUBLISHED, "shop", True, id="stripped at its beginning"),
        pytest.param("shop", "name: shop\n" + PUBLISHED, "shop", False, id="its own in the file"),
        pytest.param("shop", "name: other\n" + PUBLISHED, "other", True, id="another in the file"),
        pytest.param("shop", "name: Shop\n" + PUBLISHED, "shop", False, id="in capitals"),
        pytest.param("kiosk", "name: Plant.Mon\n" + PUBLISHED, "plantmon", True, id="odd in it"),
    ],
)
def test_the_project_name(
    settings: Settings, folder: str, compose_file: str, project: str, noted: bool
) -> None:
    app = read_one(settings, compose_file, folder)
    assert app.failure is None
    assert app.project == project
    note = (
        f"its compose project is {project!r}, not the app's name: "
        "aktualizr-lite will start it anew after registration"
    )
    assert app.notes == ((note,) if noted else ())


@pytest.mark.parametrize("name", ["äöü", "...", "-_-"])
def test_a_name_of_which_no_project_can_be_made(settings: Settings, name: str) -> None:
    app = read_one(settings, PUBLISHED, name)
    assert app.failure == Failure(
        Cause.APP_FOLDER_INVALID, "compose can make no project name of the folder's name"
    )


@pytest.mark.parametrize("name", ["caf\udce9", "a\nb", "a\x1bb"])
def test_a_name_that_no_label_of_a_container_could_hold(settings: Settings, name: str) -> None:
    app = read_one(settings, PUBLISHED, name)
    assert app.failure == Failure(
        Cause.APP_FOLDER_INVALID, "the folder's name is not printable UTF-8 text"
    )


def test_of_two_apps_with_one_project_the_one_of_that_name_is_started(settings: Settings) -> None:
    for name in ("Shop", "shop"):
        preloaded(settings, name)
    wrong, right = read_apps(settings, ("Shop", "shop"), never)
    assert right.failure is None
    assert wrong.failure == Failure(
        Cause.APP_FOLDER_INVALID, "its compose project name is 'shop', as that of app 'shop'"
    )


def test_a_name_in_the_file_of_which_no_project_can_be_made(settings: Settings) -> None:
    app = read_one(settings, "name: '...'\n" + PUBLISHED)
    assert app.failure == Failure(
        Cause.APP_FOLDER_INVALID, "compose can make no project name of 'name:'"
    )


def test_a_name_in_capitals_takes_no_project_from_another_app(settings: Settings) -> None:
    preloaded(settings, "kiosk", "name: Shop\n" + PUBLISHED)
    preloaded(settings, "shop")
    kiosk, shop = read_apps(settings, ("kiosk", "shop"), never)
    assert shop.failure is None
    assert kiosk.failure == Failure(
        Cause.APP_FOLDER_INVALID, "its compose project name is 'shop', as that of app 'shop'"
    )


def test_two_apps_with_a_project_of_neither_name_are_both_refused(settings: Settings) -> None:
    for name in ("a", "b"):
        preloaded(settings, name, "name: x\n" + PUBLISHED)
    causes = [
        each.failure and each.failure.cause for each in read_apps(settings, ("a", "b"), never)
    ]
    assert causes == [Cause.APP_FOLDER_INVALID] * 2


def test_a_broken_app_takes_no_name_from_another(settings: Settings) -> None:
    preloaded(settings, "Shop", "[")
    preloaded(settings, "shop.", PUBLISHED)
    broken, good = read_apps(settings, ("Shop", "shop."), never)
    assert broken.failure
    assert good.failure is None


# What only compose knows


@pytest.mark.parametrize(
    "compose_file",
    [
        pytest.param("services: {a: {image: 'x:$TAG'}}", id="a variable in an image"),
        pytest.param("services: {a: {image: 'x:${TAG:-1}'}}", id="one with a default"),
        pytest.param("services: {a: {image: x, scale: $N}}", id="a variable in scale"),
        pytest.param(
            "services: {a: {image: x, deploy: {replicas: $N}}}", id="a variable in replicas"
        ),
        pytest.param(
            "services: {a: {image: x, labels: [io.compose-spec.config-hash=$H]}}",
            id="a variable in the hash",
        ),
        pytest.param("name: $N\nservices: {a: {image: x}}", id="a variable in the project name"),
        pytest.param("name: null\nservices: {a: {image: x}}", id="a null as project name"),
        pytest.param("name: ''\nservices: {a: {image: x}}", id="an empty project name"),
        pytest.param("name: [a]\nservices: {a: {image: x}}", id="a list as project name"),
        pytest.param("include: [other.yml]", id="include"),
        pytest.param("include: [other.yml]\nservices:", id="include, and empty services"),
        pytest.param("services: {a: {extends: {service: b}}, b: {image: x}}", id="extends"),
        pytest.param("services: {a: {image: x, profiles: [debug]}}", id="profiles"),
        pytest.param("services: {a: {image: x, profiles: []}}", id="no profiles"),
        pytest.param("services: {a: {provider: {type: model}}}", id="a provider"),
        pytest.param("x: &x {image: y}\nservices: {a: {<<: *x}}", id="a merge key"),
        pytest.param("x: &x {a: {}}\nservices: {<<: *x, b: {image: y}}", id="one of services"),
        pytest.param("x: &x {services: {a: {}}}\n<<: *x", id="a merge key for all"),
        pytest.param("services: {a: {image: y, '<<': {}}}", id="what looks like one"),
        pytest.param("services: {a: {image: x}}\n---\nservices: {b: {image: y}}", id="documents"),
        pytest.param("---\n---\nservices: {b: {image: y}}", id="documents, one empty"),
        pytest.param("\ufeffservices: {a: {image: x}}", id="a byte-order mark"),
        pytest.param("services: {a: {image: !!str x}}", id="a tag"),
        pytest.param("services: {a: {image: x, tty: !reset true}}", id="a tag of compose's own"),
        pytest.param("services: !!map {a: {image: x}}", id="a tag of a mapping"),
        pytest.param("services: {a: {image: x, z: !!python/name:os.system x}}", id="code"),
        pytest.param("services: {a: }", id="a service without a word"),
        pytest.param("services: {a: null}", id="a null service"),
        pytest.param("services: {a: &x {image: y}, b: &x {image: z}}", id="an anchor twice"),
        pytest.param("services: {a: *b}", id="no anchor"),
        pytest.param("services: {a: {image: }}", id="an image without a word"),
        pytest.param("services: {a: {image: ~}}", id="a null image"),
        pytest.param("services: {a: {image: [x]}}", id="a list as image"),
        *(
            pytest.param(f"services: {{a: {{image: x, {content}}}}}", id=content)
            for content in (
                "scale: 0x2",
                "scale: 02",
                "scale: +2",
                "scale: 2.0",
                "scale: 1_0",
                "scale: ",
                "scale: ~",
                "scale: []",
                "scale: 99999",
                "scale: 2, deploy: {replicas: 2}",
                "deploy: ",
                "deploy: ~",
                "deploy: [x]",
                "deploy: {replicas: 1e0}",
                "deploy: {replicas: }",
                "deploy: {mode: global}",
                "deploy: {mode: replicated, replicas: 2}",
                "labels: ",
                "labels: ~",
                "labels: text",
                "labels: [{a: b}]",
                "labels: [[a]]",
                "labels: {a: [b]}",
            )
        ),
    ],
)
def test_compose_is_asked_where_the_text_is_not_all(settings: Settings, compose_file: str) -> None:
    preloaded(settings, "shop", compose_file)
    compose = AskedCompose({"name": "shop", "services": {"web": {"image": "resolved"}}})
    (app,) = read_apps(settings, ("shop",), compose)
    assert compose.asked == ["shop"]
    assert app.services == (Service("web", "resolved", None),)
    assert app.notes == ()


@pytest.mark.parametrize(
    "text",
    [
        "COMPOSE_PROFILES=debug\n",
        "A=b\nCOMPOSE_PROJECT_NAME=x",
        "  export COMPOSE_FILE=other.yml\n",
        "A=b\r\nCOMPOSE_FILE=other.yml\r\n",
        "\ufeffCOMPOSE_PROJECT_NAME=x\n",
        # No setting, but to know that is compose's.
        "# COMPOSE_FILE=x\n",
        "MY_COMPOSE_FILE=x\n",
    ],
)
def test_compose_is_asked_where_env_steers_it(settings: Settings, text: str) -> None:
    (preloaded(settings, "shop") / ".env").write_text(text)
    compose = AskedCompose({"name": "x", "services": {"web": {"image": "resolved"}}})
    (app,) = read_apps(settings, ("shop",), compose)
    assert compose.asked == ["shop"]
    assert app.project == "x"


@pytest.mark.parametrize("text", ["", "TAG=1\n", "# compose\n", "COMPOSE=x\n", "\xff"])
def test_compose_is_not_asked_for_another_env(settings: Settings, text: str) -> None:
    (preloaded(settings, "shop") / ".env").write_text(text, encoding="latin-1")
    assert read_apps(settings, ("shop",), never)[0].failure is None


@pytest.mark.parametrize(
    "name",
    [
        "compose.yaml",
        "compose.yml",
        "compose.override.yml",
        "compose.override.yaml",
        "docker-compose.override.yml",
        "docker-compose.override.yaml",
    ],
)
def test_a_file_that_wins_is_asked_about_and_noted(settings: Settings, name: str) -> None:
    (preloaded(settings, "shop") / name).touch()
    compose = AskedCompose({"name": "shop", "services": {"web": {"image": "resolved"}}})
    (app,) = read_apps(settings, ("shop",), compose)
    assert app.images == ("resolved",)
    assert app.notes == (
        f"{name} is used besides docker-compose.yml, which alone is what aktualizr-lite verifies",
    )


def test_what_compose_refuses_is_the_apps_failure(settings: Settings) -> None:
    folder = preloaded(settings, "shop", "services: {a: {image: '${TAG:?}'}}")
    failure = Failure(Cause.VARIABLE_MISSING, "required variable TAG is missing a value")
    assert read_apps(settings, ("shop",), AskedCompose(failure)) == (
        App("shop", folder, "shop", failure=failure),
    )


# Files that are none, or not what they should be


def test_a_symbolic_link_is_no_apps_folder(settings: Settings) -> None:
    preloaded(settings, "shop")
    (settings.compose_apps / "link").symlink_to("shop")
    (app,) = read_apps(settings, ("link",), never)
    assert app.failure == Failure(Cause.APP_FOLDER_INVALID, "the app's folder is a symbolic link")


def make_nothing(file: Path) -> None:
    file.unlink()


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def make_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def make_circle(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


@pytest.mark.parametrize("make", [make_nothing, make_folder])
def test_what_is_no_file_is_no_compose_file(settings: Settings, make: Any) -> None:
    folder = preloaded(settings, "shop")
    make(folder / "docker-compose.yml")
    (app,) = read_apps(settings, ("shop",), never)
    assert app.failure == Failure(
        Cause.COMPOSE_FILE_MISSING, f"there is no docker-compose.yml in {folder}"
    )


def make_endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


SPECIAL = [
    (make_fifo, "not a plain file"),
    (make_endless, "not a plain file"),
    (make_circle, os.strerror(errno.ELOOP)),
]


@pytest.mark.parametrize(("make", "words"), SPECIAL)
def test_what_is_no_plain_file_holds_nobody_up(settings: Settings, make: Any, words: str) -> None:
    folder = preloaded(settings, "shop")
    make(folder / "docker-compose.yml")
    (app,) = read_apps(settings, ("shop",), never)
    assert app.failure == Failure(
        Cause.COMPOSE_FILE_INVALID, f"docker-compose.yml cannot be read: {words}"
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [*SPECIAL, (make_folder, os.strerror(errno.EISDIR))],
)
def test_an_env_that_is_no_plain_file_holds_nobody_up(
    settings: Settings, make: Any, words: str
) -> None:
    folder = preloaded(settings, "shop")
    (folder / ".env").touch()
    make(folder / ".env")
    (app,) = read_apps(settings, ("shop",), never)
    assert app.failure == Failure(Cause.COMPOSE_FILE_INVALID, f".env cannot be read: {words}")


def test_an_env_without_end_is_not_read_to_it(settings: Settings) -> None:
    folder = preloaded(settings, "shop")
    (folder / ".env").touch()
    os.truncate(folder / ".env", 1 << 40)
    (app,) = read_apps(settings, ("shop",), never)
    assert app.failure == Failure(
        Cause.COMPOSE_FILE_INVALID, f".env cannot be read: larger than {MAX_BYTES} bytes"
    )


def test_an_app_on_a_broken_disk(settings: Settings, mocker: MockerFixture) -> None:
    preloaded(settings, "shop")
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    mocker.patch("compose_apps_early_start.plainfile.read", side_effect=error)
    (app,) = read_apps(settings, ("shop",), never)
    assert app.failure == Failure(
        Cause.COMPOSE_FILE_INVALID, "docker-compose.yml cannot be read: Input/output error"
    )


# What nobody expects


class Surprises:
    """Stands for a reader or a compose that meets what nobody expects, at one app."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, folder: Path) -> Failure:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        KeyError("services"),
        MemoryError(),
        RecursionError("too deep"),
        ValueError("pax header"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_unexpected_error_is_that_apps_alone(settings: Settings, error: Exception) -> None:
    preloaded(settings, "a")
    preloaded(settings, "b", "include: [x.yml]")
    preloaded(settings, "c")
    first, broken, last = read_apps(settings, ("a", "b", "c"), Surprises(error))
    assert (first.failure, last.failure) == (None, None)
    assert broken.failure
    assert broken.failure.cause is Cause.INTERNAL_ERROR
    assert broken.failure.message.startswith(f"{type(error).__name__}: {error} at ")
    assert broken.services == ()


@pytest.mark.parametrize(
    "answer",
    [{}, {"services": None}, {"services": []}, {"services": {"a": "text"}}],
)
def test_an_answer_of_compose_that_no_schema_has_is_that_apps_alone(
    settings: Settings, answer: Mapping[str, Any]
) -> None:
    preloaded(settings, "a", "include: [x.yml]")
    preloaded(settings, "b")
    odd, good = read_apps(settings, ("a", "b"), AskedCompose(answer))
    assert odd.failure
    assert odd.failure.cause is Cause.INTERNAL_ERROR
    assert good.failure is None


def test_a_store_that_cannot_be_compared_is_that_apps_alone(
    settings: Settings, mocker: MockerFixture
) -> None:
    for name in ("a", "b"):
        preloaded(settings, name)

    def find(_store: object, _versions: object, _installed: object, folder: Path) -> None:
        if folder.name == "a":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

    mocker.patch("compose_apps_early_start.preloaded.find", find)
    broken, good = read_apps(settings, ("a", "b"), never)
    assert broken.failure
    assert broken.failure.cause is Cause.APP_FOLDER_UNREADABLE
    assert "Input/output error" in broken.failure.message
    assert good.failure is None


@pytest.mark.parametrize(
    ("compose_file", "message"),
    [
        pytest.param("", "docker-compose.yml is empty", id="empty"),
        pytest.param(" \n\n", "docker-compose.yml is empty", id="blank"),
        pytest.param(b"\x00" * 512, "not YAML: ", id="zeros, as a power cut leaves them"),
        pytest.param("services: [", "is not YAML: line 2: did not find", id="not YAML"),
        pytest.param("services:\n\ta: b", "is not YAML: line 2: found character", id="a tab"),
        pytest.param(b"a: \xff", "is not YAML: ", id="bytes that are no text"),
        pytest.param("# only a comment", "not a mapping", id="only a comment"),
        pytest.param("text", "not a mapping", id="a text"),
        pytest.param("[a]", "not a mapping", id="a list"),
        pytest.param("null", "not a mapping", id="null"),
        pytest.param("version: '3'", "it names no services", id="no services"),
        pytest.param("services: {}", "it names no services", id="empty services"),
        pytest.param("services:", "'services' is not a mapping", id="services: null"),
        pytest.param("services: [a]", "'services' is not a mapping", id="services as a list"),
        pytest.param("services: {a: [x]}", "service 'a' is not a mapping", id="a service as list"),
        pytest.param("services: {a: text}", "service 'a' is not a mapping", id="a service as text"),
    ],
)
def test_a_compose_file_that_is_refused(
    settings: Settings, compose_file: str | bytes, message: str
) -> None:
    text = refused(settings, compose_file)
    assert message in text
    assert text.startswith("docker-compose.yml")
    assert text.isprintable()


def test_a_file_of_the_largest_size_is_read_and_a_larger_one_not(settings: Settings) -> None:
    fits = PUBLISHED.encode().ljust(MAX_BYTES, b"\n")
    assert read_one(settings, fits).failure is None
    preloaded(settings, "huge", fits + b"\n")
    (huge,) = read_apps(settings, ("huge",), never)
    assert huge.failure == Failure(
        Cause.COMPOSE_FILE_INVALID,
        f"docker-compose.yml cannot be read: larger than {MAX_BYTES} bytes",
    )


def test_a_file_of_a_terabyte_is_not_read_to_its_end(settings: Settings) -> None:
    file = preloaded(settings, "shop") / "docker-compose.yml"
    os.truncate(file, 1 << 40)
    assert "larger than" in refused_quickly(settings)


def refused_quickly(settings: Settings) -> str:
    began = time.monotonic()
    (app,) = read_apps(settings, ("shop",), never)
    assert time.monotonic() - began < 10  # a defused one takes a second at most
    assert app.failure
    assert app.failure.cause is Cause.COMPOSE_FILE_INVALID
    return app.failure.message


LAUGHS = "\n".join(
    ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
)
MERGES = "\n".join(
    ["a0: &a0 {k: v}"]
    + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 30)]
)
CHAIN = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 20000))
TOO_DEEP = f"docker-compose.yml: nested deeper than {MAX_DEPTH} levels"
# libyaml 0.2.6 refuses by itself what is nested deeper than 1000 levels. It looks ahead beyond
# brackets and braces, hence before the agent can count them.
LIBYAML_TOO_DEEP = "docker-compose.yml is not YAML: line 1: exceeded maximum nesting depth"
TOO_MANY = "docker-compose.yml: its aliases expand to more than 100000 nodes"


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        pytest.param(LAUGHS, TOO_MANY, id="aliases of aliases"),
        pytest.param(MERGES, TOO_MANY, id="merge keys of merge keys"),
        pytest.param(CHAIN, TOO_MANY, id="a long chain of merge keys"),
        pytest.param("services: &s {a: *s}", TOO_MANY, id="a mapping in itself"),
        pytest.param("x: &x [*x]", TOO_MANY, id="a list in itself"),
        pytest.param("&x {<<: *x}", TOO_MANY, id="a mapping merged into itself"),
        pytest.param("- a\n" * 101_000, TOO_MANY, id="an endless list"),
    ],
)
def test_a_bomb_is_defused(settings: Settings, bomb: str, message: str) -> None:
    preloaded(settings, "shop", bomb)
    assert refused_quickly(settings) == message


@pytest.mark.parametrize(
    "opened",
    [
        pytest.param("[", id="open brackets"),
        pytest.param("{", id="open braces"),
        pytest.param("- ", id="lists in lists"),
        pytest.param("? ", id="keys of keys"),
        pytest.param("{a: ", id="mappings in mappings"),
    ],
)
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 1000, None], ids=["few", "many", "a megabyte"])
def test_a_tower_is_not_climbed(settings: Settings, opened: str, levels: int | None) -> None:
    preloaded(settings, "shop", opened * (levels or MAX_BYTES // len(opened)))
    refusals = {TOO_DEEP}
    if levels is None and opened in ("[", "{"):
        refusals.add(LIBYAML_TOO_DEEP)
    assert refused_quickly(settings) in refusals


# Anything at all

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.sampled_from(["$X", "${X}", "=", "<<", "0", "no"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(["image", "labels", "deploy", "scale", "profiles", "extends", "restart"])
NAMES = st.text(max_size=4) | st.integers() | st.booleans() | st.none()
SERVICES = st.dictionaries(NAMES, VALUES | st.dictionaries(KEYS, VALUES), max_size=3)
DOCUMENTS = (
    st.fixed_dictionaries({"services": SERVICES}, optional={"name": VALUES, "include": VALUES})
    | st.fixed_dictionaries({"services": VALUES})
    | VALUES
)


def well_formed(app: App) -> bool:
    return all(
        isinstance(each, str) for service in app.services for each in (service.name, service.image)
    ) and isinstance(app.project, str)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an app that each example writes anew."""
    return preloaded(Settings(root=tmp_path_factory.mktemp("device")), "shop")


def outcome(shop: Path) -> App:
    settings = Settings(root=shop.parents[3])
    assert shop.parent == settings.compose_apps
    answer = {"name": "shop", "services": {"web": {"image": "resolved"}}}
    return read_apps(settings, ("shop",), AskedCompose(answer))[0]


@given(document=DOCUMENTS)
def test_any_document_is_an_app_or_a_failure(shop: Path, document: object) -> None:
    text = yaml.safe_dump(document, allow_unicode=True)
    (shop / "docker-compose.yml").write_text(text, encoding="utf-8", errors="replace")
    assert well_formed(outcome(shop))


TOKENS = """\
services a image x : { } [ ] , - ? & * << ! !!int !!set !!omap !!binary !!timestamp ' " | > % @ `
$X ${X 0x 1:2 2026-02-30 # --- ... .inf .nan = ~ &a *a"""
LAYOUT = ("\n", "\n  ", "\n    ", " ", ": ", "\t", "services: {a: {image: ")
FRAGMENTS = st.lists(st.sampled_from((*TOKENS.split(), *LAYOUT)), max_size=20).map("".join)


@given(data=st.binary() | FRAGMENTS.map(str.encode))
def test_any_bytes_are_an_app_or_a_failure(shop: Path, data: bytes) -> None:
    (shop / "docker-compose.yml").write_bytes(data)
    assert well_formed(outcome(shop))
