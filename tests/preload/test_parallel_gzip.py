"""Any gzip reads the compressed images, in which data that was compressed already is stored."""

import gzip
import random
import subprocess
from pathlib import Path

import pytest
from compose_apps_preload.image.parallel_gzip import gzipped

MIB = 1 << 20
NOISE = random.Random(1).randbytes(3 * MIB)
TEXT = b"".join(b"%d apps run\n" % number for number in range(400_000))


def packed(target: Path, data: bytes, part: int = MIB) -> bytes:
    with gzipped(target) as write:
        for at in range(0, len(data), part):
            write(data[at : at + part])
    return target.read_bytes()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"a", id="one byte"),
        pytest.param(bytes(40 * MIB), id="zeros, more than is under way at once"),
        pytest.param(TEXT + NOISE + TEXT[:5] + NOISE[:5] + TEXT, id="of both kinds"),
    ],
)
@pytest.mark.parametrize("part", [7 * 4096, MIB, 3 * MIB])
def test_what_is_read_is_what_was_written(tmp_path: Path, data: bytes, part: int) -> None:
    target = tmp_path / "image.gz"
    assert gzip.decompress(packed(target, data, part)) == data
    read = subprocess.run(["gzip", "-dc", target], check=True, capture_output=True)
    assert read.stdout == data


def test_what_is_compressed_already_does_not_grow(tmp_path: Path) -> None:
    assert len(packed(tmp_path / "image.gz", NOISE)) < len(NOISE) * 1.001


def test_the_rest_becomes_nearly_as_small_as_by_gzip(tmp_path: Path) -> None:
    whole = len(gzip.compress(TEXT, 6))
    assert len(packed(tmp_path / "image.gz", TEXT)) < whole * 1.05


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    assert packed(tmp_path / "1.gz", TEXT) == packed(tmp_path / "2.gz", TEXT)
