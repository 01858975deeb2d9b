"""Links from restored tables to the target's others: foreign keys, partitions, membership in publications."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from airflow_pg_s3.core.postgres.archive.definitions import Definition
from airflow_pg_s3.core.postgres.archive.toc import RELATIONS, Toc
from airflow_pg_s3.core.postgres.redaction import redacted
from airflow_pg_s3.core.restore.clean import apply_setting

# SQLSTATEs, or their classes: https://www.postgresql.org/docs/current/errcodes-appendix.html
MISSING = ("3F000", "42P01")
"""The other table, or its schema, is missing."""

MISSING_OR_DIFFERENT = ("0A", "23", "3F", "42", "55")
"""The other table is missing, or differs from the source's."""

_MISSING_RELATION = re.compile(r'^relation "(.+)" does not exist')


def tie(
    connection: psycopg.Connection[tuple[Any, ...]],
    script: Sequence[Definition],
    toc: Toc,
    warn: Callable[[str], None],
    *,
    tolerated: tuple[str, ...],
) -> None:
    """Create entries one by one; those that the target cannot take are left out with a warning.

    :param connection: a connection, in a transaction or not.
    :param script: the commands of the entries, and the settings before them.
    :param warn: called with a sentence for each entry that is left out, but not for comments on it.
    :param tolerated: SQLSTATEs, or their classes, with which the target cannot take an entry.
    :raises psycopg.Error: the server refuses for a reason that has nothing to do with what the target holds.
    """
    left_out: set[int] = set()
    for definition in script:
        entry = toc.by_id.get(definition.dump_id)
        if entry is not None and entry.kind == "COMMENT" and not left_out.isdisjoint(entry.dependencies):
            continue
        try:
            _run(connection, definition, toc.codec)
        except psycopg.Error as error:
            if error.sqlstate is None or not error.sqlstate.startswith(tolerated):
                raise
            left_out.add(definition.dump_id)
            reason = redacted(error.diag.message_primary or str(error))
            missing = _MISSING_RELATION.search(reason)
            is_held = missing is not None and _holds(toc, missing[1])
            advice = f" (select it too, if it is wanted: tables=['{missing[1]}'])" if missing and is_held else ""
            warn(f"left out: {definition.label}: {reason}{advice}")


def _holds(toc: Toc, relation: str) -> bool:
    return any(entry.kind in RELATIONS and toc.full_name(entry) == relation for entry in toc.entries)


def _run(connection: psycopg.Connection[tuple[Any, ...]], definition: Definition, codec: str) -> None:
    for statement in definition.statements:
        if statement.is_setting:
            apply_setting(connection, statement, codec)
        else:
            with connection.transaction():
                connection.execute(statement.encoded(codec))
