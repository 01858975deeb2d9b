"""docs/format.md describes the manifest, the members and the evidence that are really written and read."""

import hashlib
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd
from pydantic import BaseModel

from airflow_pg_s3.core.repository import manifest as manifests
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.members import _MemberRecord, parse_members
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


@pytest.mark.parametrize(
    ("section", "model"), [("The manifest", Manifest), ("The members", _MemberRecord), ("Evidence", Evidence)]
)
def test_each_field_is_described_and_no_other(section: str, model: type[BaseModel]):
    (text,) = re.findall(rf"^##+ {section}\n(.*?)^##", DOCUMENT, re.DOTALL | re.MULTILINE)
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    described = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(described) == sorted(fields_of(model))


def test_the_example_is_a_manifest_with_its_members_and_all_of_it_is_understood():
    (example,) = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    (lines,) = re.findall(r"```jsonl\n(.*?)```", DOCUMENT, re.DOTALL)
    manifest = manifests.parse(example.encode(), where="docs/format.md")
    # The seal is of its own bytes, in which the example has more white space.
    assert json.loads(manifest.to_json()) | {"sha256": ""} == json.loads(example) | {"sha256": ""}
    assert manifest.members.raw_bytes == len(lines.encode())
    packed = zstd.compress(lines.encode())
    record = manifest.members.model_copy(update={"sha256": hashlib.sha256(packed).hexdigest()})
    members = list(parse_members(manifest.model_copy(update={"members": record}), packed))
    assert [json.loads(line)["name"] for line in lines.splitlines()] == [member.name for member in members]
    chunks = [chunk for member in members for chunk in member.chunks]
    ours = [chunk for chunk in chunks if chunk.key.startswith(manifest.backup_id)]
    packs = sum(record.stored_bytes for record in manifest.packs)
    assert (manifest.chunks, manifest.new_chunks) == (len(chunks), len(ours)) == (3, 1)
    assert manifest.stored_bytes == packs + sum(chunk.stored_bytes for chunk in chunks)
    assert manifest.new_stored_bytes == packs + sum(chunk.stored_bytes for chunk in ours)
    assert manifest.raw_bytes == sum(member.raw_bytes for member in members)
    assert manifest.rows == sum(member.table.rows for member in members if member.table)
    for key in manifest.object_keys():
        assert f"production/my%20shop/{key}\n" in DOCUMENT


def test_the_number_of_the_format_is_the_one_that_is_written():
    assert f"Format number: {manifests.FORMAT}." in DOCUMENT
