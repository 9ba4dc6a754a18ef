"""Layers are decompressed piece by piece, whatever they contain."""

import gzip
import hashlib
import tracemalloc
from collections.abc import Iterator

import pytest
from compose_apps_early_start.store import StoreError
from compose_apps_preload.image import unpacking

ZEROS = bytes(100_000_000)
PIECE = 1 << 20


def pieces(data: bytes) -> Iterator[bytes]:
    return (data[begin : begin + PIECE] for begin in range(0, len(data), PIECE))


def test_a_layer_of_zeros_takes_little_memory() -> None:
    packed = gzip.compress(ZEROS, 1) + gzip.compress(b"a second member")
    diff = f"sha256:{hashlib.sha256(ZEROS + b'a second member').hexdigest()}"
    tracemalloc.start()
    try:
        unpacking.check(pieces(packed), diff)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", [1, 9, 2000])
def test_a_truncated_layer_is_refused(cut: int) -> None:
    data = bytes(range(256)) * 5000
    diff = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with pytest.raises(StoreError, match="cannot be decompressed"):
        unpacking.check(pieces(gzip.compress(data)[:-cut]), diff)
