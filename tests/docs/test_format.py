"""docs/format.md describes the manifest and the evidence that are really written and read."""

import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from airflow_pg_s3.core.repository import manifest as manifests
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.verification_record import Evidence

DOCUMENT = (Path(__file__).parents[2] / "docs/format.md").read_text()


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every field, as the document writes its place: `members[].table.rows`."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        inner = field.annotation
        if typing.get_origin(inner) is typing.Annotated:
            inner = typing.get_args(inner)[0]
        optional = typing.get_origin(inner) is types.UnionType
        if optional:
            inner = next(t for t in typing.get_args(inner) if t is not types.NoneType)
        if typing.get_origin(inner) is list:
            (item,) = typing.get_args(inner)
            if isinstance(item, type) and issubclass(item, BaseModel):
                yield from fields_of(item, f"{path}[].")
                continue
        elif isinstance(inner, type) and issubclass(inner, BaseModel):
            if optional:
                yield path
            yield from fields_of(inner, f"{path}.")
            continue
        yield path


@pytest.mark.parametrize(("section", "model"), [("The manifest", Manifest), ("Evidence", Evidence)])
def test_each_field_is_described_and_no_other(section: str, model: type[BaseModel]):
    (text,) = re.findall(rf"^## {section}\n(.*?)^## ", DOCUMENT, re.DOTALL | re.MULTILINE)
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    described = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(described) == sorted(fields_of(model))


def test_the_example_is_a_manifest_and_all_of_it_is_understood():
    (example,) = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    manifest = manifests.parse(example.encode(), where="docs/format.md")
    # The seal is of its own bytes, in which the example has more white space.
    assert json.loads(manifest.to_json()) | {"sha256": ""} == json.loads(example) | {"sha256": ""}
    assert manifest.stored_bytes == sum(record.stored_bytes for record in manifest.objects)
    assert manifest.raw_bytes == sum(member.raw_bytes for member in manifest.members)
    assert manifest.rows == sum(member.table.rows for member in manifest.members if member.table)
    for record in manifest.objects:
        assert f"production/my%20shop/{record.key}\n" in DOCUMENT


def test_the_number_of_the_format_is_the_one_that_is_written():
    assert f"Format number: {manifests.FORMAT}." in DOCUMENT
