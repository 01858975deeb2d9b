"""How many bytes pg_dump is going to write, as far as that can be told before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

    from airflow_pg_s3.core.repository.manifest import Manifest


# COPY writes text: what the planner knows are widths in a table. Each column has a tab or a newline behind it, and
# NULL is written as \N. Of what lies beside its table, and of large objects, only the pages are known.
# Not by pg_relation_size, which waits for whoever has locked the table.
_BY_STATISTICS = r"""
with columns as (
    select c.oid as relation, sum(1 + 2 * null_frac + (1 - null_frac) * case format_type(atttypid, null)
        when 'timestamp with time zone' then 29 when 'timestamp without time zone' then 26 when 'date' then 10
        when 'uuid' then 36 when 'boolean' then 1 when 'bytea' then 2 * avg_width else avg_width end) as width
    from pg_stats s join pg_namespace n on nspname = schemaname
         join pg_class c on relnamespace = n.oid and relname = tablename
         join pg_attribute a on attrelid = c.oid and a.attname = s.attname
    where not inherited and nspname !~ '^pg_' group by c.oid
)
select coalesce(sum(c.reltuples * width + coalesce(beside.relpages, 0) * current_setting('block_size')::int), 0)
       + (select relpages::bigint * current_setting('block_size')::int from pg_class
          where oid = 'pg_largeobject'::regclass)
from pg_class c join pg_namespace n on n.oid = relnamespace join columns on relation = c.oid
     left join pg_class beside on beside.oid = c.reltoastrelid
where c.relkind = 'r' and c.reltuples > 0 and nspname <> 'information_schema'
"""


def expected_bytes(
    connection: psycopg.Connection[tuple[Any, ...]],
    newest: Manifest | None,
    options: Sequence[str],
    left_out_by: Sequence[str],
) -> int | None:
    """Estimate a dump's size: that of the last backup, else what the planner's statistics tell.

    :param newest: the newest backup of the same database.
    :param options: of pg_dump.
    :param left_out_by: those of them that leave something out.
    :returns: bytes, or None if nobody knows: something is left out for the first time, or nothing was analyzed.
    """
    if newest is not None and newest.dump.options == list(options):
        return newest.raw_bytes
    if left_out_by:
        return None
    (size,) = connection.execute(_BY_STATISTICS).fetchone() or (0,)
    return int(size) or None
