"""The comparison of tables' rows: the manifest's digests against those of the restored database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.repository.manifest import Manifest, Member, Table
from airflow_pg_s3.core.repository.verification_record import Difference, TableResult
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.verify.comparison.copy_reader import CopyReader, UnreadableError
from airflow_pg_s3.core.verify.comparison.row_digest import DigestInAnyOrder, FirstDifference, digest_in_order
from airflow_pg_s3.core.verify.comparison.table_catalog import RestoredTable, Tables
from airflow_pg_s3.core.verify.comparison.workers import Found


@dataclass(frozen=True, kw_only=True)
class TableComparison:
    """Compares the rows of tables.

    :param restored: the tables of the restored database.
    :param locate: whether to find the first row that differs.
    """

    archive: ArchiveFolder
    restored: Tables
    locate: bool

    def groups(self) -> list[list[Member]]:
        """Return members to compare together: those loaded through the same root, and each other one by itself."""
        by_root: dict[tuple[str, str], list[Member]] = {}
        alone = []
        for member in self.archive.manifest.members:
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
        """Yield tables with rows for which the backup holds none: they were not dumped, or did not exist."""
        dumped = {(t.schema_name, t.name) for t in _tables(self.archive.manifest)}
        roots = {self.restored[key].oid for key in _roots(self.archive.manifest) if key in self.restored}
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
        sha256, rows = digest_in_order(reader.copy(command, expected_bytes=member.raw_bytes))
        if (sha256, rows) == (table.content_sha256, table.rows):
            return _result(member, rows_found=rows, matches=True)
        # The extension has created the table, and filled it: restored rows go wherever there is room.
        if restored.of_extension and rows == table.rows and self._are_same_rows([member], command, reader)[0]:
            return _result(member, rows_found=rows, matches=True)
        first = self._first_difference(member, command, reader) if self.locate else None
        found = _result(member, rows_found=rows, matches=False, first_difference=first)
        what = (
            f"{table.rows} rows expected, {rows} found"
            if rows != table.rows
            else f"its {rows} rows are not those of the source, or in another order"
        )
        where = f"; the first difference is in row {first}" if first else ""
        found.differences.append(_difference(table, what + where))
        return found

    def _first_difference(self, member: Member, command: bytes, reader: CopyReader) -> int | None:
        with closing(reader.copy(command, expected_bytes=member.raw_bytes)) as blocks:
            comparison = FirstDifference(blocks)
            self._read(member, comparison.write, reader)
            comparison.finish()
        return comparison.row

    def _read(self, member: Member, write: Callable[[bytes], object], reader: CopyReader) -> None:
        def take(chunk: bytes) -> None:
            reader.check()
            write(chunk)

        self.archive.read(member, take)

    def _compare_root(self, group: Sequence[Member], root: RestoredTable, reader: CopyReader) -> Found:
        """Compare rows as a set: those loaded through a root may be in any of its partitions, in any order."""
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
        """Return whether a COPY returns the rows of these members, in any order, and how many rows it returns."""
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
        """Return a ``WHERE`` clause that leaves out partitions that have members of their own."""
        directly = {(t.schema_name, t.name) for t in _tables(self.archive.manifest) if not t.through_root}
        oids = [str(t.oid) for key, t in self.restored.items() if t.root == root.oid and key in directly]
        return b"WHERE tableoid NOT IN (%b)" % ", ".join(oids or ["0"]).encode()


def _tables(manifest: Manifest) -> list[Table]:
    return [member.table for member in manifest.members if member.table is not None]


def _roots(manifest: Manifest) -> set[tuple[str, str]]:
    return {(table.schema_name, table.name) for table in _tables(manifest) if table.through_root}


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
