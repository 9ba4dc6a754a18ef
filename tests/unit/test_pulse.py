"""STATUS=: each event at once, and in between what goes on and for how long."""

import time
from collections.abc import Callable

import pytest
from compose_apps_early_start import pulse
from compose_apps_early_start.cause import Cause, Failure
from compose_apps_early_start.pulse import Pulse
from compose_apps_early_start.report import Event, Kind
from pytest_mock import MockerFixture


class Systemd:
    """Hears what is told, and has a clock and reasons that a test sets."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.now = 100.0
        self.reason: str | None = None
        self.asked = 0

    def notify(self, text: str) -> None:
        self.told.append(text)

    def held_up_by(self) -> str | None:
        self.asked += 1
        return self.reason


@pytest.fixture
def systemd() -> Systemd:
    return Systemd()


@pytest.fixture
def beaten(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> Pulse:
    """A pulse that beats only by hand."""
    monkeypatch.setattr("threading.Thread.start", lambda thread: None)
    return Pulse(systemd.notify, systemd.held_up_by, lambda: systemd.now)


def after(systemd: Systemd, beaten: Pulse, seconds: float) -> str | None:
    """What a beat tells so many seconds later, None if it tells nothing."""
    systemd.now += seconds
    count = len(systemd.told)
    beaten.beat()
    return systemd.told[-1] if len(systemd.told) > count else None


def test_while_dockerd_is_waited_for_it_says_how_long_and_what_for(
    systemd: Systemd, beaten: Pulse
) -> None:
    beaten(Event(Kind.WAITING, "waiting for dockerd"))
    assert systemd.told == ["STATUS=waiting for dockerd"]
    assert after(systemd, beaten, 3) == "STATUS=waiting for dockerd, 3 s"
    assert systemd.asked == 0  # a dockerd that comes at once is left in peace
    systemd.reason = "docker.service waits"
    assert after(systemd, beaten, 3) == "STATUS=waiting for dockerd, 6 s: docker.service waits"
    assert after(systemd, beaten, 3) == "STATUS=waiting for dockerd, 9 s: docker.service waits"
    assert systemd.asked == 1
    systemd.reason = None
    assert after(systemd, beaten, 3) == "STATUS=waiting for dockerd, 12 s"
    beaten(Event(Kind.READY, "dockerd is ready", seconds=12.0))
    assert after(systemd, beaten, 30) is None
    assert systemd.asked == 2


def test_apps_that_are_not_decided_are_told_with_their_time(
    systemd: Systemd, beaten: Pulse
) -> None:
    beaten(Event(Kind.STARTING, "coming up", app="shop"))
    systemd.now += 1
    beaten(Event(Kind.LOADING, "loading: 0 of 9 MB", app="db"))
    systemd.now += 2
    beaten(Event(Kind.LOADING, "loading: 5 of 9 MB", app="db"))
    assert after(systemd, beaten, 1) == "STATUS=shop: coming up, 4 s; db: loading: 5 of 9 MB, 3 s"
    beaten(Event(Kind.NOTE, "by the way", app="shop"))
    beaten(Event(Kind.UP, "up, settling", app="shop", seconds=1.0))
    assert (
        after(systemd, beaten, 2) == "STATUS=db: loading: 5 of 9 MB, 5 s; shop: up, settling, 2 s"
    )
    beaten(Event(Kind.RUNNING, "runs", app="shop", seconds=2.0))
    beaten(Event.failed("db", Failure(Cause.EXITED, "it ended")))
    assert after(systemd, beaten, 30) is None


def test_a_line_has_room_for_three_apps(systemd: Systemd, beaten: Pulse) -> None:
    for number in range(5):
        beaten(Event(Kind.STARTING, "coming up", app=f"app{number}"))
    told = after(systemd, beaten, 1)
    assert told is not None
    assert told.endswith("app2: coming up, 1 s; and 2 more apps")


def test_a_dockerd_that_is_back_is_not_waited_for(systemd: Systemd, beaten: Pulse) -> None:
    beaten(Event(Kind.UP, "up, settling", app="shop", seconds=1.0))
    beaten(Event(Kind.WAITING, "dockerd went away: waiting until it is back"))
    assert after(systemd, beaten, 3) == "STATUS=dockerd went away: waiting until it is back, 3 s"
    beaten(Event(Kind.PENDING, "web is starting", app="shop"))
    assert after(systemd, beaten, 1) == "STATUS=shop: web is starting, 1 s"


@pytest.mark.parametrize("kind", [Kind.FINISHED, Kind.ABORTED, Kind.DEGRADED])
def test_when_the_run_has_ended_its_last_line_stays(
    systemd: Systemd, beaten: Pulse, kind: Kind
) -> None:
    beaten(Event(Kind.STARTING, "coming up", app="shop"))
    beaten(Event(kind, "the end"))
    assert after(systemd, beaten, 30) is None
    assert systemd.told[-1] == "STATUS=the end"


def test_it_beats_by_itself_until_the_end(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "BEAT_SECONDS", 0.01)
    told = Pulse(systemd.notify, systemd.held_up_by)
    told(Event(Kind.STARTING, "coming up", app="shop"))
    until(lambda: systemd.told.count("STATUS=shop: coming up, 0 s") > 2)
    told(Event(Kind.FINISHED, "1 of 1 apps run"))
    assert told._thread
    told._thread.join(10)
    assert not told._thread.is_alive()
    assert systemd.told[-1] == "STATUS=1 of 1 apps run"


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_beat_and_a_question_together_take_five_seconds_at_most() -> None:
    from compose_apps_early_start import jobs

    assert pulse.BEAT_SECONDS + jobs.SECONDS <= 5.0


# The notification itself


def nothing() -> None:
    return None


def test_systemctl_status_shows_the_line_in_ascii(mocker: MockerFixture, systemd: Systemd) -> None:
    mocker.patch("sdnotify.SystemdNotifier", return_value=systemd)
    show = pulse.status({"NOTIFY_SOCKET": "/run/systemd/notify"}, nothing)
    show(Event(Kind.FINISHED, "up", app="käse"))
    assert systemd.told == ["STATUS=k?se: up"]


def test_no_name_of_a_folder_speaks_to_systemd(mocker: MockerFixture, systemd: Systemd) -> None:
    mocker.patch("sdnotify.SystemdNotifier", return_value=systemd)
    show = pulse.status({"NOTIFY_SOCKET": "@x"}, nothing)
    show(Event(Kind.FINISHED, "up", app="a\nERRNO=2\nSTATUS=b"))
    assert systemd.told == ["STATUS=a\\nERRNO=2\\nSTATUS=b: up"]


def test_where_systemd_does_not_listen_nothing_is_sent(mocker: MockerFixture) -> None:
    made = mocker.patch("sdnotify.SystemdNotifier")
    pulse.status({}, nothing)(Event(Kind.WAITING, "waiting"))
    assert made.mock_calls == []
