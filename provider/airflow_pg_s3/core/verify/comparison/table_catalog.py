"""The tables of a restored database, with the COPY commands by which pg_dump would read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from airflow_pg_s3.core.postgres.encodings import decode_name
from airflow_pg_s3.core.postgres.server import Server
from airflow_pg_s3.core.postgres.sql_text import quote

# Names are read as bytes: Python lacks some encodings, and SQL_ASCII allows any bytes.
_TABLES = """
select c.oid, convert_to(nspname, %(encoding)s), convert_to(relname, %(encoding)s), relkind::text,
    array(select convert_to(attname, %(encoding)s) from pg_attribute
          where attrelid = c.oid and attnum > 0 and not attisdropped),
    exists (select from pg_depend
            where classid = 'pg_class'::regclass and objid = c.oid and deptype = 'e'),
    (select convert_to(extcondition[array_position(extconfig, c.oid)], %(encoding)s)
     from pg_extension where c.oid = any(extconfig)),
    case when relispartition then pg_partition_root(c.oid)::oid end
from pg_class c join pg_namespace n on n.oid = relnamespace
where relkind in ('r', 'p', 'f') and nspname !~ '^pg_(toast|temp)' and
    (nspname not in ('pg_catalog', 'information_schema')
     or c.oid = any(select unnest(extconfig) from pg_extension))
"""


@dataclass(frozen=True, kw_only=True)
class RestoredTable:
    """One table of the restored database.

    :param schema: name of its schema, decoded like the names in a manifest.
    :param quoted: its qualified name, quoted for SQL, in the dump's encoding.
    :param kind: ``r`` for a table, ``p`` for a partitioned table, ``f`` for a foreign table.
    :param columns: names of its columns, each with the name quoted for SQL, in the dump's encoding.
    :param of_extension: whether an extension has created it.
    :param condition: for extensions' tables, ``WHERE …``: the rows that are dumped.
    :param root: for partitions, oid of the root of the partition tree.
    """

    oid: int
    schema: str
    name: str
    quoted: bytes
    kind: str
    columns: Mapping[str, bytes]
    of_extension: bool
    condition: bytes
    root: int | None

    def copy_command(self, columns: Sequence[str], *, where: bytes = b"") -> bytes:
        """Return the COPY command that pg_dump runs.

        :param columns: names from `columns`, in the order to read them.
        :param where: a ``WHERE`` clause that leaves rows out.
        """
        quoted = [self.columns[name] for name in columns]
        where = where or self.condition
        if where or self.kind != "r":
            return b"COPY (SELECT %b FROM %b %b) TO STDOUT" % (b", ".join(quoted), self.quoted, where)
        listed = b" (%b)" % b", ".join(quoted) if quoted else b""
        return b"COPY %b%b TO STDOUT" % (self.quoted, listed)


Tables = Mapping[tuple[str, str], RestoredTable]


def read_tables(connection: psycopg.Connection[tuple[Any, ...]], server: Server) -> Tables:
    """Return the tables of a database by schema and name.

    :param server: the source server, for the encoding of names.
    """
    cursor = connection.execute(_TABLES, {"encoding": server.encoding}, binary=True)
    tables = {}
    for oid, schema, name, kind, columns, of_extension, condition, root in cursor:
        table = RestoredTable(
            oid=oid,
            schema=decode_name(schema, server.codec),
            name=decode_name(name, server.codec),
            quoted=quote(schema) + b"." + quote(name),
            kind=kind,
            columns={decode_name(column, server.codec): quote(column) for column in columns},
            of_extension=of_extension,
            condition=condition or b"",
            root=root,
        )
        tables[table.schema, table.name] = table
    return tables
