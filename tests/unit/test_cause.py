"""The causes, and what the agent itself may try against each."""

import pytest
from compose_apps_early_start.cause import Cause, Remedy

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
def test_the_ladder_is_climbed_upwards(cause: Cause) -> None:
    rungs = list(Remedy)
    climbed = [rungs.index(each) for each in cause.remedies]
    assert climbed == sorted(set(climbed))


@pytest.mark.parametrize(
    "cause",
    [Cause.IMAGE_MISSING, Cause.COMPOSE_FILE_INVALID, Cause.NO_SPACE, Cause.PROJECT_TAKEN],
    ids=lambda cause: cause.label,
)
def test_what_cannot_heal_by_itself_is_not_tried_again(cause: Cause) -> None:
    assert cause.remedies == ()
    assert not cause.comes_later


@pytest.mark.parametrize(
    "cause",
    [Cause.PORT_TAKEN, Cause.NAME_TAKEN, Cause.SUBNET_TAKEN],
    ids=lambda cause: cause.label,
)
def test_no_container_is_created_anew_for_what_somebody_else_holds(cause: Cause) -> None:
    assert cause.remedies == (Remedy.AGAIN,)


def test_what_may_come_without_us_is_waited_for() -> None:
    later = {each for each in EVERY if each.comes_later}
    assert later == {Cause.NETWORK_MISSING, Cause.VOLUME_MISSING, Cause.ENGINE_LOST}
