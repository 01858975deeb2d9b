"""The comparison of sequences' states, filled materialized views and extensions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from airflow_pg_s3.core.postgres.archive.schema_script import TO_BE_FILLED, Entry, SchemaText, printable
from airflow_pg_s3.core.postgres.archive.toc import Toc
from airflow_pg_s3.core.postgres.server import Server
from airflow_pg_s3.core.postgres.sql_text import quote
from airflow_pg_s3.core.reporting import some_of
from airflow_pg_s3.core.repository.verification_record import Difference
from airflow_pg_s3.core.verify.comparison.copy_reader import CopyReader

# Number of sequences per query, so that 10,000 of them do not take 10,000 round trips.
_SEQUENCES_AT_ONCE = 200
_SHOWN = 10
_SEQUENCES = """
select convert_to(nspname, %(encoding)s), convert_to(relname, %(encoding)s)
from pg_class join pg_namespace n on n.oid = relnamespace where relkind = 'S' and nspname !~ '^pg_temp'
order by 1, 2
"""
_MATERIALIZED_VIEWS = """
select convert_to(nspname, %(encoding)s), convert_to(relname, %(encoding)s)
from pg_class join pg_namespace n on n.oid = relnamespace where relkind = 'm' and relispopulated
"""
# Tables and sequences that extensions have not registered with pg_extension_config_dump(). Sequences that belong
# to such a table are left out: they start anew with it.
_LEFT_TO_EXTENSIONS = """
with members as (
    select extname, extconfig, c.oid, relkind, convert_to(nspname || '.' || relname, %(encoding)s) as name
    from pg_extension e join pg_depend d on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid
        join pg_class c on d.classid = 'pg_class'::regclass and d.objid = c.oid
        join pg_namespace n on n.oid = relnamespace
    where d.deptype = 'e' and relkind in ('r', 'S') and extconfig @> array[c.oid] is not true
)
select extname, array_agg(name order by name) filter (where relkind = 'r'),
    array_agg(name order by name) filter (where relkind = 'S')
from members
where not exists (
    select from pg_depend
    where classid = 'pg_class'::regclass and objid = oid and relkind = 'S' and deptype in ('a', 'i')
        and refclassid = 'pg_class'::regclass and extconfig @> array[refobjid] is not true)
group by extname order by extname
"""
_SETVAL = re.compile(rb"SELECT pg_catalog\.setval\('.*', (-?\d+), (true|false)\);", re.DOTALL)
Connection = psycopg.Connection[tuple[Any, ...]]
_Names = tuple[str, str]


def compare_sequences(reader: CopyReader, toc: Toc, server: Server) -> Iterator[Difference]:
    """Compare the last values of sequences, and whether these were used, with the archive's."""
    expected: dict[_Names, str] = {}
    for entry in toc.entries:
        if entry.kind == "SEQUENCE SET" and (match := _SETVAL.search(entry.definition)):
            expected[entry.schema, entry.name] = _state(match.group(1).decode(), match.group(2) == b"true")
    found: dict[_Names, str] = {}
    names = reader.connection.execute(_SEQUENCES, {"encoding": server.encoding}, binary=True).fetchall()
    for start in range(0, len(names), _SEQUENCES_AT_ONCE):
        some = names[start : start + _SEQUENCES_AT_ONCE]
        for (schema, name), state in zip(some, _states(reader, some), strict=True):
            found[_decoded(schema, server), _decoded(name, server)] = state
    for key, state in expected.items():
        if key not in found:
            yield Difference(kind="sequence", name=_name(key), detail="is missing")
        elif found[key] != state:
            yield Difference(kind="sequence", name=_name(key), detail=f"{state} expected, {found[key]} found")


def compare_materialized_views(connection: Connection, schema: SchemaText, server: Server) -> Iterator[Difference]:
    """Compare which materialized views are filled. Their rows are computed anew, and may differ.

    :param schema: the archive's definitions.
    """
    expected = Counter(
        (entry.schema, entry.name)
        for entry, texts in schema.entries.items()
        if entry.kind == TO_BE_FILLED
        for _ in texts
    )
    rows = connection.execute(_MATERIALIZED_VIEWS, {"encoding": server.encoding}, binary=True)
    found = Counter((_shown(schema, server), _shown(name, server)) for schema, name in rows)
    for key in expected - found:
        yield Difference(kind="table", name=_name(key), detail="the materialized view is not filled")
    for key in found - expected:
        yield Difference(
            kind="table", name=_name(key), detail="the materialized view is filled, unlike in the source"
        )


def compare_extensions(
    connection: Connection, schema: SchemaText, server: Server
) -> tuple[list[Difference], list[str]]:
    """Compare extensions that the definitions do not cover: their versions, and plpgsql's existence.

    :return: differences and warnings; another version is only a warning, as a restore cannot choose it.
    """
    found: dict[str, str] = dict(connection.execute("select extname, extversion from pg_extension").fetchall())
    differences, warnings = [], []
    for extension in server.extensions:
        version = found.get(extension.name)
        if version is None and extension.name == "plpgsql":  # every database has it, so it is in no archive
            differences.append(Difference(kind="extension", name=extension.name, detail="is missing"))
        elif (
            version not in (None, extension.version) and Entry("EXTENSION", "-", extension.name) in schema.entries
        ):
            warnings.append(
                f"the extension {extension.name} has version {version}, not the source's {extension.version}: "
                "the server offers no other by default, so the extension's own objects may differ"
            )
    return differences, warnings


def left_to_extensions(connection: Connection, server: Server) -> list[str]:
    """Return a sentence for each extension with tables or sequences that pg_dump does not dump."""
    sentences = []
    rows = connection.execute(_LEFT_TO_EXTENSIONS, {"encoding": server.encoding}, binary=True)
    for extension, tables, sequences in rows:
        parts = [f"the rows of {_listed(tables, server)}"] if tables else []
        parts += [f"the last value of {_listed(sequences, server)}"] if sequences else []
        advice = ": after a restore, set the latter with setval()" if sequences else ""
        sentences.append(
            f"the extension {extension} does not let pg_dump write {' and '.join(parts)}, so the backup does not "
            f"hold them, and they were not compared{advice}"
        )
    return sentences


def _states(reader: CopyReader, names: Sequence[tuple[bytes, bytes]]) -> list[str]:
    queries = [
        b"select %d, last_value, is_called from %b.%b" % (number, quote(schema), quote(name))
        for number, (schema, name) in enumerate(names)
    ]
    command = b"COPY (%b order by 1) TO STDOUT" % b" union all ".join(queries)
    lines = b"".join(reader.copy(command, expected_bytes=0)).decode("ascii").splitlines()
    return [_state(value, called == "t") for _, value, called in (line.split("\t") for line in lines)]


def _decoded(name: bytes, server: Server) -> str:
    return name.decode(server.codec, errors="surrogateescape")


def _shown(name: bytes, server: Server) -> str:
    """Return a name as pg_dump writes it in a comment, and as it is in `Entry`."""
    return _decoded(name, server).replace("\n", " ").replace("\r", " ")


def _name(key: tuple[str, str]) -> str:
    return printable(".".join(key))


def _listed(names: Sequence[bytes], server: Server) -> str:
    return some_of([printable(_decoded(name, server)) for name in names], _SHOWN)


def _state(last_value: str, is_used: bool) -> str:
    return f"last value {last_value} ({'used' if is_used else 'not used yet'})"
