"""What publishing does to texts: variables, references and platforms."""

import contextlib

import pytest
from compose_apps_preload.errors import UsageError
from compose_apps_preload.image import bundle, platforms, skopeo
from compose_apps_preload.image.platforms import Platform
from compose_apps_preload.interpolation import VariableError, substitute
from hypothesis import given
from hypothesis import strategies as st

VARIABLES = {"FACTORY": "acme", "EMPTY": ""}
HEX = "0" * 64


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("hub/${FACTORY}/x:$FACTORY", "hub/acme/x:acme"),
        ("a$$b", "a$b"),
        ("${NONE:-other}", "other"),
        ("${NONE-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${EMPTY-other}", ""),
        ("${NONE:-${FACTORY}-${NONE:-deep}}", "acme-deep"),
        ("${FACTORY:+set}", "set"),
        ("${NONE+set}", ""),
        ("${FACTORY:?needed}", "acme"),
    ],
)
def test_variables_are_replaced(text: str, result: str) -> None:
    assert substitute(text, VARIABLES, strict=True) == result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NONE}", "NONE is not set"),
        ("$NONE", "NONE is not set"),
        ("${NONE:?give it}", "NONE is not set: give it"),
        ("${EMPTY:?}", "EMPTY is not set"),
        ("cost: 5$", "write \\$\\$"),
        ("${FACTORY", "is not a variable"),
        ("${NONE:-x", "is missing"),
        ("${1}", "write \\$\\$"),
        ("${NONE:-" * 10_000, "nested too deeply"),
    ],
)
def test_a_variable_without_a_value_is_told(text: str, message: str) -> None:
    with pytest.raises(VariableError, match=message):
        substitute(text, VARIABLES, strict=True)


@given(st.text(alphabet="${}:-?+AB x"), st.booleans())
def test_no_text_is_too_odd(text: str, strict: bool) -> None:
    with contextlib.suppress(VariableError):
        substitute(text, {"A": "1"}, strict=strict)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("alpine", "docker.io/library/alpine"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("grafana/grafana", "docker.io/grafana/grafana"),
        ("docker.io/alpine", "docker.io/library/alpine"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine"),
        ("localhost/x", "localhost/x"),
        ("hub:5000/x", "hub:5000/x"),
        (f"alpine@sha256:{HEX}", f"docker.io/library/alpine@sha256:{HEX}"),
        (f"alpine:3@sha256:{HEX}", f"docker.io/library/alpine:3@sha256:{HEX}"),
    ],
)
def test_references_are_written_in_full(short: str, full: str) -> None:
    assert skopeo.full(short) == full


@pytest.mark.parametrize("text", ["", "UPPER", "a b", "a//b", "a:", "a@sha256:12", "-a"])
def test_what_is_no_reference_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid image reference"):
        skopeo.full(text)


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("arm64", "arm64"),
        ("arm64/v8", "arm64"),
        ("aarch64", "arm64"),
        ("linux/arm64", "arm64"),
        ("x86_64", "amd64"),
        ("linux/amd64", "amd64"),
        ("amd64/v1", "amd64"),
        ("amd64/v3", "amd64/v3"),
        ("arm", "arm/v7"),
        ("armhf", "arm/v7"),
        ("armv7l", "arm/v7"),
        ("arm/7", "arm/v7"),
        ("arm/v6", "arm/v6"),
        ("riscv64", "riscv64"),
    ],
)
def test_architectures_mean_what_they_say(text: str, platform: str) -> None:
    assert str(platforms.parse(text)) == platform


@pytest.mark.parametrize("text", ["", "mips", "arm64/v8/x", "windows/amd64", "linux"])
def test_what_is_no_architecture_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        platforms.parse(text)


@pytest.mark.parametrize(
    ("wanted", "order"),
    [
        ("arm", "arm/v7 arm/v6 arm/v5"),
        ("arm/v6", "arm/v6 arm/v5"),
        ("arm64", "arm64 arm/v8 arm/v7 arm/v6 arm/v5"),
        ("amd64", "amd64 386"),
        ("amd64/v3", "amd64/v3 amd64/v2 amd64 386"),
        ("riscv64", "riscv64"),
    ],
)
def test_platforms_come_in_containerds_order(wanted: str, order: str) -> None:
    assert " ".join(map(str, platforms.accepted(platforms.parse(wanted)))) == order


def test_an_arm_image_without_a_variant_is_v7() -> None:
    assert platforms.from_document({"os": "linux", "architecture": "arm"}) == Platform("arm", "v7")
    assert platforms.from_document({"os": "unknown", "architecture": "unknown"}) is None
    assert platforms.from_document({"os": "linux", "architecture": 3}) is None


def test_a_bundle_index_is_written_as_go_writes_it() -> None:
    hashes = {"b/Q&A.html": "sha256:1", "a<b>": "sha256:2", "\u2028": "sha256:3", "ü": "sha256:4"}
    assert (
        bundle.index(hashes)
        == (
            '{"a\\u003cb\\u003e":"sha256:2","b/Q\\u0026A.html":"sha256:1",'
            '"ü":"sha256:4","\\u2028":"sha256:3"}'
        ).encode()
    )
