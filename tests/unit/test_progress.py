"""The progress of loading an image: bytes, rate and time left."""

import pytest
from compose_apps_early_start.progress import Meter, words


@pytest.mark.parametrize(
    ("done", "seconds", "text"),
    [
        pytest.param(0, 0.0, "0.0 MB of 900.0 MB", id="it begins"),
        pytest.param(0, 60.0, "0.0 MB of 900.0 MB", id="nothing came yet"),
        pytest.param(9_000_000, 0.5, "9.0 MB of 900.0 MB", id="too early for a rate"),
        pytest.param(300_000_000, 30.0, "300.0 MB of 900.0 MB, 10.0 MB/s, 60 s left", id="a third"),
        pytest.param(900_512_000, 90.0, "900.5 MB of 900.0 MB, 10.0 MB/s, 0 s left", id="headers"),
    ],
)
def test_what_is_said(done: int, seconds: float, text: str) -> None:
    assert words(done, 900_000_000, seconds) == text


def test_it_is_said_now_and_then_and_not_more_often() -> None:
    now = 0.0
    told: list[str] = []
    meter = Meter(100_000_000, told.append, lambda: now)
    for second in range(12):
        now = float(second)
        meter.add(2_000_000)
    assert told == [
        "12.0 MB of 100.0 MB, 2.4 MB/s, 37 s left",
        "22.0 MB of 100.0 MB, 2.2 MB/s, 35 s left",
    ]
    assert meter.done == 24_000_000
