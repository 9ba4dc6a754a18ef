"""The timeline as an SVG picture for browsers, with a light and a dark colour scheme."""

from collections.abc import Iterator

from .report import printable
from .timeline import VERDICTS, WORDS, Lane, Timeline, explanation, summary

WIDTH = 1000
LEFT = 250
"""The left end of the axis. The names of the lanes are to the left of it."""
RIGHT = 130
"""The right end of the axis. The verdict of the last app is to the right of it."""
ROW = 26
BAR = 16
TOP = 148
"""The top of the first lane. The title, the phases and the axis are above it."""
MAX_TICKS = 10

INK, FAINT, GRID, PAPER = "#24292f", "#57606a", "#d8dee4", "#ffffff"
PHASES = {
    "kernel": "#8c959f",
    "initrd": "#afb8c1",
    "system": "#d0d7de",
    "dockerd": "#54aeff",
    "agent": "#c297ff",
    "apps": "#4ac26b",
}
HELD = "#fb8f44"
"""The colour of a unit that held dockerd back and has a phase of its own."""
STATES = {
    "waiting": "#eaeef2",
    "restoring": "#d8b9ff",
    "loading": "#c297ff",
    "starting": "#54aeff",
    "settling": "#b6e3ff",
    "retrying": "#eac54f",
    "running": "#aceebb",
    "apps": "#aceebb",
}
MARKS = {"restart": "#bc4c00", "healthy": "#116329", "running": "#116329", "failed": "#cf222e"}


def svg(timeline: Timeline) -> str:
    """Return the picture as an SVG document."""
    return "\n".join(_document(timeline)) + "\n"


def _document(timeline: Timeline) -> Iterator[str]:
    axis = _Axis(timeline)
    height = TOP + ROW * len(timeline.lanes) + 74
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="13" '
        f'role="img" aria-label="{_text(summary(timeline))}">'
    )
    yield f'<rect width="{WIDTH}" height="{height}" rx="6" fill="{PAPER}"/>'
    yield _label(16, 30, "Where did the time to the apps go?", size=18, weight="bold")
    yield _label(16, 50, summary(timeline), fill=FAINT)
    yield from _phases(timeline, axis)
    yield from _grid(axis, height - 56)
    for number, lane in enumerate(timeline.lanes):
        yield from _lane(lane, TOP + ROW * number, axis)
    yield from _legend(timeline, height - 30)
    held = explanation(timeline)
    if held:
        yield _label(16, height - 10, held, fill=FAINT, size=12)
    yield "</svg>"


class _Axis:
    """Converts seconds since the kernel's start to coordinates of the picture."""

    def __init__(self, timeline: Timeline) -> None:
        # Units that started soon after the run are drawn; later ones are only named.
        near = timeline.end * 1.15
        marks = [mark.uptime for lane in timeline.lanes for mark in lane.marks]
        self.end = max([timeline.end * 1.02, *(each * 1.02 for each in marks if each <= near)])

    def at(self, seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(seconds, self.end) / self.end

    def ticks(self) -> Iterator[int]:
        """Return ticks at whole seconds; their distance is 1, 2 or 5 times a power of ten."""
        sizes = (factor * 10**power for power in range(6) for factor in (1, 2, 5))
        step = next(size for size in sizes if self.end / size <= MAX_TICKS)
        return iter(range(0, int(self.end) + 1, step))


def _phases(timeline: Timeline, axis: _Axis) -> Iterator[str]:
    yield _label(LEFT - 10, 100, "all in all", anchor="end", weight="bold")
    x = 16.0
    for phase in timeline.phases:
        seconds = f"{phase.end - phase.begin:.1f} s"
        label = f"{phase.name} {seconds}"
        colour = PHASES.get(phase.name, HELD)
        left, right = axis.at(phase.begin), axis.at(phase.end)
        yield _bar(left, right, 84, 24, colour, f"{label}, from {phase.begin:.1f} s")
        if len(seconds) * 7 < right - left:
            yield _label((left + right) / 2, 100, seconds, anchor="middle", size=12)
        if seconds != "0.0 s":
            yield _bar(x, x + 12, 61, 12, colour, "")
            yield _label(x + 17, 71, label, size=12)
            x += 34 + 7 * len(label)


def _grid(axis: _Axis, bottom: int) -> Iterator[str]:
    for tick in axis.ticks():
        x = axis.at(tick)
        yield f'<path d="M{x:.1f} 112V{bottom}" stroke="{GRID}"/>'
        yield _label(x, 126, f"{tick} s", anchor="middle", size=11, fill=FAINT)


def _lane(lane: Lane, top: int, axis: _Axis) -> Iterator[str]:
    middle = top + BAR / 2
    weight = "bold" if lane.kind == "app" else "normal"
    yield _label(LEFT - 10, top + 13, _short(lane.name), anchor="end", weight=weight)
    for span in lane.spans:
        word = WORDS.get(span.state, span.state) if lane.kind != "unit" else span.state
        label = f"{lane.name}: {word} {span.end - span.begin:.1f} s, from {span.begin:.1f} s"
        yield _bar(axis.at(span.begin), axis.at(span.end), top, BAR, STATES[span.state], label)
    if lane.spans and lane.spans[-1].state == "running":
        yield _bar(axis.at(lane.spans[-1].end), axis.at(axis.end), top, BAR, STATES["running"], "")
    for mark in lane.marks:
        x = axis.at(mark.uptime)
        label = f"{lane.name}: {WORDS.get(mark.what, mark.what)} at {mark.uptime:.1f} s"
        colour = MARKS.get(mark.what, INK)
        if mark.what == "restart":
            shape = f"M{x - 4:.1f} {top}h8l-4 7z"
        elif mark.what in VERDICTS:
            shape = f"M{x - 1:.1f} {top - 2}h2v{BAR + 4}h-2z"
        else:
            shape = f"M{x:.1f} {middle - 5}l5 5l-5 5l-5 -5z"
        yield f'<path d="{shape}" fill="{colour}"><title>{_text(label)}</title></path>'
    final = next((mark for mark in lane.marks if mark.what in (*VERDICTS, "reached")), None)
    if final:
        label = f"{lane.note + ' ' if lane.note else ''}{final.uptime:.1f} s"
        fill = MARKS["failed"] if lane.note else FAINT
        yield from _beside(axis.at(final.uptime), top + 13, label, fill)


def _beside(x: float, y: float, label: str, fill: str) -> Iterator[str]:
    """Write to the right of `x`, or to the left of it near the edge of the picture."""
    if x + 10 + len(label) * 6 < WIDTH:
        yield _label(x + 8, y, label, size=11, fill=fill)
    else:
        yield _label(x - 8, y, label, size=11, fill=fill, anchor="end")


def _legend(timeline: Timeline, y: int) -> Iterator[str]:
    states = {span.state for lane in timeline.lanes for span in lane.spans if lane.kind == "app"}
    states |= {"starting"} if any(lane.spans for lane in timeline.lanes) else set()
    marks = {mark.what for lane in timeline.lanes for mark in lane.marks}
    x = 16.0
    for state in STATES:
        if state in states:
            yield _bar(x, x + 14, y - 11, 12, STATES[state], "")
            word = WORDS.get(state, state)
            yield _label(x + 20, y, word, size=12)
            x += 34 + 7 * len(word)
    for mark, shape, word in (
        ("restart", "h8l-4 7z", "restarted by dockerd"),
        ("healthy", "l5 5l-5 5l-5 -5z", "healthy"),
    ):
        if mark in marks:
            yield f'<path d="M{x + 5:.1f} {y - 10}{shape}" fill="{MARKS[mark]}"/>'
            yield _label(x + 20, y, word, size=12)
            x += 34 + 7 * len(word)


def _short(name: str) -> str:
    name = printable(name).removesuffix(".service")
    return name if len(name) <= 32 else f"{name[:31]}…"


def _bar(left: float, right: float, top: float, height: int, colour: str, label: str) -> str:
    """Draw a bar that is wide enough to be visible."""
    width = max(right - left, 1.0)
    title = f"<title>{_text(label)}</title>" if label else ""
    return (
        f'<rect x="{left:.1f}" y="{top:g}" width="{width:.1f}" height="{height}" '
        f'fill="{colour}">{title}</rect>'
    )


def _label(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 13,
    fill: str = INK,
    anchor: str = "start",
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{_text(text)}</text>'
    )


_ENTITIES = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;"}


def _text(text: str) -> str:
    return printable(text).translate(_ENTITIES)
