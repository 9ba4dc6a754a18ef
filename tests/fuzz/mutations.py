"""What goes wrong with real input: damaged bytes, and JSON that is not what it should be."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

Strategy = st.SearchStrategy

RAW_JSON = (
    b"",
    b"null",
    b"NaN",
    b"[" * 9000,
    b'{"a":' * 9000,
    b"1" * 5000,
    b"[1e999]",
    b"\xff\xfe",
    b'"\\ud800"',
    b"\xef\xbb\xbf{}",
)
"""Texts at which readers of JSON trip."""

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1 << 70, 1.5, 1e300, float("nan")),
    *("", "x", "\0", "\ud800", "\x1b[2J", "a\nb", "../../../etc/passwd", "/etc/passwd"),
    *("sha256:" + "0" * 64, "sha256:../../../../etc/passwd", "x" * 5000),
    *([], {}, [None], {"": None}, [[]], ["x"], {"x": "y"}, [{}]),
)
"""What stands in the place of what is expected."""

odd = st.sampled_from(ODD) | st.text(max_size=20) | st.integers()


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """Draw `original` with some bytes flipped, cut off, dropped, doubled or replaced."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, min(64, len(data) - at)))
        match draw(st.sampled_from(["flip", "cut", "drop", "double", "replace", "insert"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length] * draw(st.integers(1, 50))
            case "replace":
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case _:
                data[at:at] = draw(st.binary(max_size=16))
    return bytes(data)


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every container in `document` with each of its keys."""
    found = []
    keys = range(len(document)) if isinstance(document, list) else document
    if isinstance(document, (dict, list)):
        for key in list(keys):
            found.append((document, key))
            found += _places(document[key])
    return found


@st.composite
def altered(draw: st.DrawFn, original: Any) -> Any:
    """Draw `original` with some values replaced, removed, renamed or doubled."""
    document = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(document)
        if not places or draw(st.integers(0, 19)) == 0:
            return draw(odd)
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["odd", "remove", "rename", "double"])):
            case "odd":
                holder[key] = copy.deepcopy(draw(odd))
            case "remove":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = holder.pop(key)
            case _ if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case _:
                holder[key] = [copy.deepcopy(holder[key])]
    return document


def json_files(original: Any) -> Strategy[bytes]:
    """Draw what a file may hold that should hold the JSON `original`."""
    text = json.dumps(original).encode()
    return st.one_of(
        altered(original).map(lambda each: json.dumps(each).encode()),
        damaged(text),
        st.sampled_from(RAW_JSON),
    )
