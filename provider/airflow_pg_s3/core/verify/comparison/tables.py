"""The tables' rows: what the manifest says of them against what the restored database holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.repository.digest import COPY_TERMINATOR
from airflow_pg_s3.core.repository.manifest import Table
from airflow_pg_s3.core.repository.members import Member
from airflow_pg_s3.core.repository.verification_record import Difference, TableResult
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.verify.comparison.copy_reader import CopyReader, UnreadableError
from airflow_pg_s3.core.verify.comparison.row_digest import (
    DigestInAnyOrder,
    PieceDifference,
    compare_in_pieces,
    first_different_byte,
)
from airflow_pg_s3.core.verify.comparison.table_catalog import RestoredTable, Tables
from airflow_pg_s3.core.verify.comparison.workers import Found


@dataclass(frozen=True, kw_only=True)
class TableComparison:
    """Compares the rows of tables.

    :param restored: the tables of the restored database.
    :param locate: whether to look for the first row that differs.
    """

    archive: ArchiveFolder
    restored: Tables
    locate: bool

    def groups(self) -> list[list[Member]]:
        """Members to be compared together: those loaded through one root, and every other by itself."""
        by_root: dict[tuple[str, str], list[Member]] = {}
        alone = []
        for member in self.archive.members.values():
            if member.table is None:
                continue
            if member.table.through_root:
                by_root.setdefault((member.table.schema_name, member.table.name), []).append(member)
            else:
                alone.append([member])
        return [*by_root.values(), *alone]

    def compare(self, group: Sequence[Member], reader: CopyReader) -> Found:
        """Compare the rows of one group."""
        table = _table(group[0])
        restored = self.restored.get((table.schema_name, table.name))
        if restored is None:
            return _not_read(group, "is missing")
        missing = [c for member in group for c in _table(member).columns if c not in restored.columns]
        if missing:
            return _not_read(group, f"has no column {missing[0]}")
        try:
            if table.through_root:
                return self._compare_root(group, restored, reader)
            return self._compare_table(group[0], restored, reader)
        except UnreadableError as error:
            return _not_read(group, f"cannot be read: {error}")

    def uncalled_for(self, reader: CopyReader) -> Iterator[Difference]:
        """Find rows in tables of which the backup has none: they were not dumped, or did not exist."""
        dumped = {(t.schema_name, t.name) for t in _tables(self.archive)}
        roots = {self.restored[key].oid for key in _roots(self.archive) if key in self.restored}
        for key, restored in self.restored.items():
            if restored.kind != "r" or restored.of_extension or restored.root in roots or key in dumped:
                continue
            query = b"select from only %b limit 1" % restored.quoted
            blocks = reader.copy(b"COPY (%b) TO STDOUT" % query, expected_bytes=0)
            with closing(blocks):
                if next(blocks, b""):
                    yield Difference(
                        kind="table",
                        name=".".join(key),
                        detail="the backup holds no rows for this table, but it has some",
                    )

    def _compare_table(self, member: Member, restored: RestoredTable, reader: CopyReader) -> Found:
        table = _table(member)
        command = restored.copy_command(table.columns)
        blocks = chain(reader.copy(command, expected_bytes=member.raw_bytes), [COPY_TERMINATOR])
        compared = compare_in_pieces(blocks, member.pieces())
        # Newlines in values are written "\n".
        rows = compared.newlines - COPY_TERMINATOR.count(b"\n")
        if compared.difference is None and rows == table.rows:
            return _result(member, rows_found=rows, matches=True)
        # pg_restore has not made it: it adds rows to what the extension has put there, wherever there is room.
        if restored.of_extension and rows == table.rows and self._are_same_rows([member], command, reader)[0]:
            return _result(member, rows_found=rows, matches=True)
        first = self._row(member, compared.difference) if self.locate and compared.difference else None
        found = _result(member, rows_found=rows, matches=False, first_difference=first)
        what = (
            f"{table.rows} rows expected, {rows} found"
            if rows != table.rows
            else f"its {rows} rows are not those of the source, or in another order"
        )
        where = f"; the first difference is in row {first}" if first else ""
        found.differences.append(_difference(table, what + where))
        return found

    def _row(self, member: Member, difference: PieceDifference) -> int:
        """Number, from 1, of the first row that differs, is missing or is too much."""
        expected = self.archive.read_piece(member, difference.number)
        first = first_different_byte(expected, difference.found)
        return difference.newlines_before + expected.count(b"\n", 0, first) + 1

    def _read(self, member: Member, write: Callable[[bytes], object], reader: CopyReader) -> None:
        def take(chunk: bytes) -> None:
            reader.check()
            write(chunk)

        self.archive.read(member, take)

    def _compare_root(self, group: Sequence[Member], root: RestoredTable, reader: CopyReader) -> Found:
        """Compare rows as a set: a partition that is loaded through its root has them in any order, anywhere."""
        command = root.copy_command(_table(group[0]).columns, where=self._rows_of_root(root))
        expected_rows = sum(_table(member).rows for member in group)
        matches, rows_found = self._are_same_rows(group, command, reader)
        found = Found()
        for member in group:
            rows = _table(member).rows if matches else None
            found.add(_result(member, rows_found=rows, matches=matches))
        if not matches:
            detail = (
                f"{expected_rows} rows expected over all partitions, {rows_found} found"
                if rows_found != expected_rows
                else f"its {rows_found} rows over all partitions are not those of the source"
            )
            found.differences.append(_difference(_table(group[0]), detail))
        return found

    def _are_same_rows(self, group: Sequence[Member], command: bytes, reader: CopyReader) -> tuple[bool, int]:
        """Whether a COPY gives the rows of these members, in any order; and how many it gives."""
        expected_sum, expected_rows = 0, 0
        for member in group:
            digest = DigestInAnyOrder(_table(member).columns)
            self._read(member, digest.write, reader)
            expected_sum += digest.sum_and_rows[0]
            expected_rows += digest.sum_and_rows[1]
        digest = DigestInAnyOrder(_table(group[0]).columns)
        for block in reader.copy(command, expected_bytes=sum(member.raw_bytes for member in group)):
            digest.write(block)
        return digest.sum_and_rows == (expected_sum % (1 << 256), expected_rows), digest.sum_and_rows[1]

    def _rows_of_root(self, root: RestoredTable) -> bytes:
        """Leave out partitions that have members of their own."""
        directly = {(t.schema_name, t.name) for t in _tables(self.archive) if not t.through_root}
        oids = [str(t.oid) for key, t in self.restored.items() if t.root == root.oid and key in directly]
        return b"WHERE tableoid NOT IN (%b)" % ", ".join(oids or ["0"]).encode()


def _tables(archive: ArchiveFolder) -> list[Table]:
    return [member.table for member in archive.members.values() if member.table is not None]


def _roots(archive: ArchiveFolder) -> set[tuple[str, str]]:
    return {(table.schema_name, table.name) for table in _tables(archive) if table.through_root}


def _table(member: Member) -> Table:
    if member.table is None:
        raise PgS3Error(f"{member.name} is no table's data")
    return member.table


def _difference(table: Table, detail: str) -> Difference:
    return Difference(kind="table", name=f"{table.schema_name}.{table.name}", detail=detail)


def _result(
    member: Member, *, rows_found: int | None, matches: bool, first_difference: int | None = None
) -> Found:
    table = _table(member)
    result = TableResult(
        schema=table.schema_name,
        name=table.name,
        rows_expected=table.rows,
        rows_found=rows_found,
        matches=matches,
        first_difference=first_difference,
    )
    return Found(tables={member.name: result})


def _not_read(group: Sequence[Member], why: str) -> Found:
    found = Found(differences=[_difference(_table(group[0]), why)])
    for member in group:
        found.add(_result(member, rows_found=None, matches=False))
    return found
