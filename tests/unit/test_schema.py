"""The schemas of the JSON output are valid, installed and documented."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import documents
import pytest
from compose_apps_early_start import evidence, preview, record
from compose_apps_preload.image import verify
from jsonschema import Draft202012Validator, ValidationError

ROOT = Path(__file__).parents[2]
NAMES = ("status", "plan", "verify")


def objects(node: Any) -> Iterator[dict[str, Any]]:
    """Every description of an object with known keys in a schema."""
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node:
            yield node
        for each in node.values():
            yield from objects(each)
    if isinstance(node, list):
        for each in node:
            yield from objects(each)


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one(name: str) -> None:
    schema = documents.schema(name)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)
    assert list(objects(schema))


def test_the_schemas_are_of_the_versions_that_the_agent_writes() -> None:
    kinds = documents.schema("status")["$defs"]
    assert kinds["run"]["properties"]["schema"]["const"] == record.SCHEMA
    assert kinds["runs"]["properties"]["schema"]["const"] == record.SCHEMA
    assert kinds["evidence"]["properties"]["schema"]["const"] == evidence.SCHEMA
    assert documents.schema("plan")["properties"]["schema"]["const"] == preview.SCHEMA
    assert documents.schema("verify")["properties"]["schema"]["const"] == verify.SCHEMA


def test_what_programs_get_may_have_more_keys_but_none_less() -> None:
    validator = Draft202012Validator(documents.schema("status"))
    run = record.RunRecord.begun(1).to_json()
    validator.validate(run)
    validator.validate({**run, "more": 1})
    for key in run:
        with pytest.raises(ValidationError):
            validator.validate({other: run[other] for other in run if other != key})


def test_the_page_explains_every_key_of_a_record_and_no_other() -> None:
    page = (ROOT / "docs/record.md").read_text().split("\n## Run\n")[1]
    explained = {
        key
        for cell in re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
        for key in re.findall(r"`([a-z_]+)`", cell)
    }
    kinds = documents.schema("status")["$defs"]
    keys = {key for kind in kinds.values() for each in objects(kind) for key in each["properties"]}
    states = {
        state
        for kind in (kinds["run"], kinds["app"])
        for state in kind["properties"]["steps"]["items"]["properties"]["state"]["enum"]
    }
    # These are explained in a sentence.
    assert explained == (keys | states) - {"uptime", "nearest", "runs"}


def test_they_ship_in_the_packages_and_lie_beside_their_page() -> None:
    shipped = sorted(
        file
        for package in ("agent/compose_apps_early_start", "packaging/preload/compose_apps_preload")
        for file in (ROOT / package).rglob("*.schema.json")
    )
    linked = sorted((ROOT / "docs").glob("*.schema.json"))
    assert {each.name for each in linked} == {f"{name}.schema.json" for name in NAMES}
    assert sorted(each.resolve() for each in linked) == shipped
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-data"] == {
        "compose_apps_early_start": ["*.schema.json", "py.typed"]
    }
    tool = tomllib.loads((ROOT / "packaging/preload/pyproject.toml").read_text())
    assert (
        "image/*.schema.json" in tool["tool"]["setuptools"]["package-data"]["compose_apps_preload"]
    )
