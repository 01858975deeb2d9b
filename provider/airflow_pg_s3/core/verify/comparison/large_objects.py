"""The large objects of a restored database: their content, owners, privileges and comments."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import psycopg

from airflow_pg_s3.core.postgres.archive.toc import Toc
from airflow_pg_s3.core.postgres.server import Server
from airflow_pg_s3.core.repository.manifest import Manifest, Member
from airflow_pg_s3.core.repository.verification_record import Difference

_CHUNK_BYTES = 1 << 20
_MEMBER = re.compile(r"blob_(\d{1,10})\.dat")
# Reading one byte more than expected is enough to see that there is more.
_CONTENTS = "select oid, lo_get(oid, 0, size + 1) from unnest(%s::oid[], %s::int[]) as expected (oid, size)"
_PROPERTIES = """
select oid, convert_to(pg_get_userbyid(lomowner), %(encoding)s),
    convert_to(obj_description(oid, 'pg_largeobject'), %(encoding)s),
    array(select convert_to(privilege_type || case when is_grantable then '*' else '' end || ' '
                            || case grantee when 0 then 'PUBLIC' else pg_get_userbyid(grantee) end, %(encoding)s)
          from aclexplode(coalesce(lomacl, acldefault('L', lomowner))))
from pg_largeobject_metadata
"""
_OID = re.compile(rb"\d+")
_ONE = re.compile(r"LARGE OBJECT (\d+)")
_COMMENT = re.compile(r"^COMMENT ON LARGE OBJECT (\d+) IS '(.*)';\s*\Z", re.MULTILINE | re.DOTALL)
_GRANT = re.compile(r"^GRANT ([\w,]+) ON LARGE OBJECT \d+ TO (.+?)( WITH GRANT OPTION)?;$", re.MULTILINE)
_REVOKE = re.compile(r"^REVOKE ALL ON LARGE OBJECT \d+ FROM (.+);$", re.MULTILINE)
_ALL = ("SELECT", "UPDATE")
Connection = psycopg.Connection[tuple[Any, ...]]


def content_members(manifest: Manifest) -> dict[int, Member]:
    """Return the oids of the large objects in a backup, with their members."""
    matches = ((_MEMBER.fullmatch(member.name), member) for member in manifest.members)
    return {int(match.group(1)): member for match, member in matches if match}


def compare_contents(connection: Connection, group: Mapping[int, Member]) -> Iterator[Difference]:
    """Compare the contents of large objects that exist.

    :raises psycopg.Error: a large object cannot be read.
    """
    (member, *others) = group.values()
    if not others and not member.packed:
        (oid,) = group
        size, sha256 = _read(connection, oid)
        if (size, sha256) != (member.raw_bytes, member.sha256):
            yield _other_content(oid, member, size)
        return
    sizes = [member.raw_bytes for member in group.values()]
    for oid, content in connection.execute(_CONTENTS, [list(group), sizes], binary=True):
        if hashlib.sha256(content).hexdigest() != group[oid].sha256:
            yield _other_content(oid, group[oid], len(content))


def read_oids(connection: Connection) -> set[int]:
    """Return the oids of the large objects in a database."""
    return {oid for (oid,) in connection.execute("select oid from pg_largeobject_metadata", binary=True)}


def compare_existence(expected: Set[int], found: Set[int]) -> list[Difference]:
    """Return large objects that are missing, and those that are not in the backup."""
    missing = [_difference(oid, "is missing") for oid in sorted(expected - found)]
    return missing + [_difference(oid, "is not in the source") for oid in sorted(found - expected)]


@dataclass
class Properties:
    """A large object's owner, comment and privileges.

    :param privileges: such as ``SELECT reader``; ``SELECT* reader`` with grant option.
    """

    owner: str | None = None
    comment: str | None = None
    privileges: set[str] = field(default_factory=set)


def compare_properties(
    connection: Connection, toc: Toc, server: Server, *, with_roles: bool
) -> Iterator[Difference]:
    """Compare owners, privileges and comments with those in the archive."""
    expected = read_properties(toc)
    for oid, owner, comment, privileges in connection.execute(
        _PROPERTIES, {"encoding": server.encoding}, binary=True
    ):
        if oid not in expected:
            continue
        known = expected[oid]
        found = Properties(
            owner=_text(owner, server),
            comment=None if comment is None else _text(comment, server),
            privileges={_text(privilege, server) for privilege in privileges},
        )
        if found.comment != known.comment:
            yield _difference(oid, f"comment {known.comment!r} expected, {found.comment!r} found")
        if with_roles and found.owner != known.owner:
            yield _difference(oid, f"owner {known.owner!r} expected, {found.owner!r} found")
        if with_roles and found.privileges != known.privileges:
            yield _difference(
                oid, f"privileges {sorted(known.privileges)} expected, {sorted(found.privileges)} found"
            )


def read_properties(toc: Toc) -> dict[int, Properties]:
    """Read the properties that an archive gives each large object, starting from the defaults."""
    # Since PostgreSQL 17, one entry creates all large objects with the same owner and privileges.
    created = {
        entry.dump_id: [int(oid) for oid in _OID.findall(entry.definition)]
        for entry in toc.entries
        if entry.kind in ("BLOB", "BLOB METADATA")
    }
    large_objects = {
        oid: Properties(owner=owner, privileges={f"{right} {owner}" for right in _ALL})
        for dump_id, oids in created.items()
        for owner in [toc.by_id[dump_id].owner]
        for oid in oids
    }
    doubled = any(entry.kind == "STDSTRINGS" and b"'off'" in entry.definition for entry in toc.entries)
    for entry in toc.entries:
        # An entry about several large objects names the first; pg_restore repeats it for the others.
        about = {oid for number in entry.dependencies for oid in created.get(number, [])}
        text = entry.definition.decode(toc.codec, errors="surrogateescape")
        if entry.kind == "COMMENT" and (match := _COMMENT.search(text)) and int(match.group(1)) in about:
            comment = match.group(2).replace("''", "'")
            large_objects[int(match.group(1))].comment = comment.replace("\\\\", "\\") if doubled else comment
        elif entry.kind == "ACL":
            single = _ONE.fullmatch(entry.name)
            for oid in about & {int(single.group(1))} if single else about:
                _apply(text, large_objects[oid].privileges)
    return large_objects


def _apply(text: str, privileges: set[str]) -> None:
    for role in _REVOKE.findall(text):
        privileges -= {f"{right}{option} {_unquoted(role)}" for right in _ALL for option in ("", "*")}
    for rights, role, option in _GRANT.findall(text):
        for right in _ALL if rights == "ALL" else rights.split(","):
            privileges.add(f"{right}{'*' if option else ''} {_unquoted(role)}")


def _read(connection: Connection, oid: int) -> tuple[int, str]:
    sha256, size = hashlib.sha256(), 0
    query = "select lo_get(%s, %s, %s)"
    while True:
        row = connection.execute(query, [oid, size, _CHUNK_BYTES], binary=True).fetchone()
        if row is None or not row[0]:
            return size, sha256.hexdigest()
        sha256.update(row[0])
        size += len(row[0])


def _other_content(oid: int, member: Member, size: int) -> Difference:
    if size == member.raw_bytes:
        return _difference(oid, f"its {size} bytes are not those of the source")
    found = "more" if size == member.raw_bytes + 1 else f"{size}"
    return _difference(oid, f"{member.raw_bytes} bytes expected, {found} found")


def _difference(oid: int, detail: str) -> Difference:
    return Difference(kind="large object", name=str(oid), detail=detail)


def _unquoted(identifier: str) -> str:
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier


def _text(value: bytes, server: Server) -> str:
    return value.decode(server.codec, errors="surrogateescape")
