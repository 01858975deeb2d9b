"""Links from restored tables to the target's others: foreign keys, partitions, membership in publications."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from airflow_pg_s3.core.postgres.archive.definitions import Definition
from airflow_pg_s3.core.postgres.archive.toc import Toc
from airflow_pg_s3.core.postgres.redaction import redacted
from airflow_pg_s3.core.restore.clean import apply_setting

# Classes of errors that mean that the other table is missing, or differs from the source's:
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_TOLERATED = ("0A", "23", "3F", "42", "55")
_MISSING = re.compile(r'^relation "(.+)" does not exist')


def tie(
    connection: psycopg.Connection[tuple[Any, ...]],
    script: Sequence[Definition],
    toc: Toc,
    warn: Callable[[str], None],
) -> None:
    """Create entries one by one; those that the target cannot take are left out with a warning.

    :param connection: a connection, in a transaction or not.
    :param script: the commands of the entries, and the settings before them.
    :param warn: called with a sentence for each entry that is left out, but not for comments on it.
    :raises psycopg.Error: the server refuses for a reason that has nothing to do with what the target holds.
    """
    left_out: set[int] = set()
    for definition in script:
        entry = toc.by_id.get(definition.dump_id)
        if entry is not None and not left_out.isdisjoint(entry.dependencies):
            continue
        try:
            _run(connection, definition, toc.codec)
        except psycopg.Error as error:
            if error.sqlstate is None or not error.sqlstate.startswith(_TOLERATED):
                raise
            left_out.add(definition.dump_id)
            reason = redacted(error.diag.message_primary or str(error))
            missing = _MISSING.search(reason)
            advice = f" (select it too, if it is wanted: tables=['{missing[1]}'])" if missing else ""
            warn(f"left out: {definition.label}: {reason}{advice}")


def _run(connection: psycopg.Connection[tuple[Any, ...]], definition: Definition, codec: str) -> None:
    for statement in definition.statements:
        if statement.is_setting:
            apply_setting(connection, statement, codec)
        else:
            with connection.transaction():
                connection.execute(statement.encoded(codec))
