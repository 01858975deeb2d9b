"""The manifest of a backup, from what was uploaded."""

from __future__ import annotations

from collections.abc import Iterable

from airflow_pg_s3 import __version__
from airflow_pg_s3.core.backup.archive_uploader import UploadedArchive, UploadedMember
from airflow_pg_s3.core.backup.chunk_cutter import METHOD
from airflow_pg_s3.core.backup.pg_dump import PgDump
from airflow_pg_s3.core.backup.staged_backup import StagedBackup
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.postgres import client_options
from airflow_pg_s3.core.postgres.archive import table_data
from airflow_pg_s3.core.postgres.archive.toc import check_files, read_toc
from airflow_pg_s3.core.repository.codec import Encoder
from airflow_pg_s3.core.repository.manifest import (
    GLOBALS,
    Chunking,
    Compression,
    Dump,
    Encryption,
    Manifest,
    ObjectRecord,
    Producer,
    Table,
    parse_run_key,
    ranges_of,
)
from airflow_pg_s3.core.repository.members import Member, runs_of


def build_manifest(
    dump: PgDump, backup_id: str, encoder: Encoder, staged: StagedBackup, shipped: UploadedArchive
) -> Manifest:
    """Write down what was shipped, and store the list of the members; refuse an archive that is not whole.

    :raises PgS3Error: it is not, or could not be restored.
    :raises StorageError: S3 failed.
    """
    toc = read_toc(dump.toc)
    check_files(toc)
    tables = table_data.tables_of_members(toc)
    names = {member.name for member in shipped.members}
    if not names.issuperset(tables):
        raise PgS3Error(
            f"pg_dump's table of contents names {sorted(set(tables) - names)[0]}, which was not shipped"
        )
    for name in sorted(names.difference(tables)):
        if name[0].isdigit():
            raise PgS3Error(f"pg_dump wrote {name}, but its table of contents does not say of which table")
    members = [_member(m, tables.get(m.name), staged.base) for m in sorted(shipped.members, key=_dump_id)]
    packs = {m.pack.key: m.pack.stored_bytes for m in shipped.members if m.pack is not None}
    runs = runs_of(members)
    store = shipped.store
    request = dump.request
    return Manifest(
        format=1,
        backup_id=backup_id,
        database=request.source.database,
        created_at=dump.facts.now,
        duration_seconds=round(dump.seconds, 3),
        labels=dict(request.labels),
        server=dump.facts.server,
        dump=Dump(
            pg_dump_version=dump.tools.version,
            options=list(request.pg_dump_options),
            left_out_by=client_options.left_out_by(list(dump.given.items())),
            lc_monetary=dump.facts.lc_monetary,
            has_globals=GLOBALS in names,
            jobs=request.jobs,
        ),
        compression=Compression(method="zstd", level=encoder.level),
        encryption=Encryption(method="age", recipients=encoder.recipients) if encoder.recipients else None,
        producer=Producer(tool="airflow-provider-pg-s3", version=__version__, **request.producer),
        chunking=Chunking(method=METHOD, average_bytes=shipped.average_bytes),
        raw_bytes=sum(member.raw_bytes for member in members),
        stored_bytes=store.stored_bytes + sum(packs.values()),
        new_stored_bytes=store.new_stored_bytes + sum(packs.values()),
        chunks=store.chunks,
        new_chunks=store.new_chunks,
        tables=len(tables),
        rows=sum(member.table.rows for member in members if member.table is not None),
        members=staged.store_members(members, runs),
        packs=[ObjectRecord(key=key.removeprefix(staged.base), stored_bytes=size) for key, size in packs.items()],
        runs=_numbers(runs),
    )


def _numbers(keys: Iterable[str]) -> dict[str, list[tuple[int, int]]]:
    """Numbers of runs, as ranges, by the id of the backup in whose folder they are."""
    numbers: dict[str, list[int]] = {}
    for backup_id, number in filter(None, map(parse_run_key, keys)):
        numbers.setdefault(backup_id, []).append(number)
    return {backup_id: ranges_of(found) for backup_id, found in sorted(numbers.items())}


def _member(member: UploadedMember, table: table_data.TableData | None, base: str) -> Member:
    record = None
    if table is not None:
        if member.content.copy_rows is None:
            raise PgS3Error(f"the data of {table.schema}.{table.name} ({member.name}) has no end: it is truncated")
        record = Table(
            schema=table.schema,
            name=table.name,
            columns=table.columns,
            rows=member.content.copy_rows,
            through_root=table.through_root,
        )
    return Member(
        name=member.name,
        raw_bytes=member.content.raw_bytes,
        pack=member.pack.key.removeprefix(base) if member.pack is not None else None,
        sha256=member.content.sha256,
        chunks=member.chunks,
        table=record,
    )


def _dump_id(member: UploadedMember) -> tuple[int, str]:
    number = member.name.partition(".")[0]
    return (int(number) if number.isdigit() else 0, member.name)
