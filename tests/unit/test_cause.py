"""Every cause has a label, a hint, and an answer to whether it can pass by waiting."""

import pytest
from compose_apps_early_start.cause import Cause, Failure

EVERY = list(Cause)


def test_no_two_causes_share_a_label() -> None:
    assert len({each.label for each in EVERY}) == len(EVERY)


@pytest.mark.parametrize("cause", EVERY, ids=lambda cause: cause.label)
def test_label_and_hint_fit_into_one_line_of_the_report(cause: Cause) -> None:
    assert cause.label.replace("-", "").isalpha()
    assert cause.label == cause.label.lower()
    assert cause.hint.isprintable()
    assert not cause.hint.endswith(".")  # a sentence goes on behind it


@pytest.mark.parametrize("cause", EVERY, ids=lambda cause: cause.label)
def test_no_hint_loses_what_a_device_holds(cause: Cause) -> None:
    for word in ("down", "prune", "--volumes", " -v", "--remove-orphans"):
        assert word not in cause.hint


def test_what_cannot_pass_by_waiting_is_final_and_nothing_else() -> None:
    final = {each.label for each in EVERY if not each.passes}
    assert final == {
        # The app's own files and its place.
        "app-folder-invalid",
        "app-folder-unreadable",
        "compose-file-missing",
        "compose-file-invalid",
        "variable-missing",
        "env-file-missing",
        "project-taken",
        # What only a person or the network brings.
        "compose-not-found",
        "image-missing",
        "registry-needed",
        "store-damaged",
        "platform-missing",
        "read-only",
        "version-unclear",
        "image-not-loaded",
        "folder-not-restored",
        "container-paused",
        "apps-taken",
        # The end of the run itself.
        "engine-unavailable",
        "run-timeout",
        "interrupted",
        "internal-error",
    }


def test_words_that_nobody_knows_are_waited_for() -> None:
    assert Cause.COMPOSE_FAILED.passes


def test_an_unexpected_error_is_told_with_its_kind_and_its_innermost_place() -> None:
    def inner() -> None:
        raise KeyError("Id")

    try:
        inner()
    except KeyError as error:
        failure = Failure.unexpected(error)
        line = inner.__code__.co_firstlineno + 1
    assert failure == Failure(Cause.INTERNAL_ERROR, f"KeyError: 'Id' at test_cause.py:{line}")


def test_an_unexpected_error_that_was_never_raised_has_no_place() -> None:
    assert Failure.unexpected(ValueError("x")).message == "ValueError: x"
