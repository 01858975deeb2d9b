"""The manifest of a backup, from what was uploaded."""

from __future__ import annotations

from airflow_pg_s3 import __version__
from airflow_pg_s3.core.backup.archive_uploader import UploadedMember
from airflow_pg_s3.core.backup.pg_dump import PgDump
from airflow_pg_s3.core.backup.staged_backup import StagedBackup
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.postgres import client_options
from airflow_pg_s3.core.postgres.archive import table_data
from airflow_pg_s3.core.postgres.archive.toc import check_files, read_toc
from airflow_pg_s3.core.repository.codec import Encoder
from airflow_pg_s3.core.repository.manifest import (
    Compression,
    Dump,
    Encryption,
    Manifest,
    Member,
    ObjectRecord,
    Producer,
    Table,
)


def build_manifest(
    dump: PgDump, backup_id: str, encoder: Encoder, staged: StagedBackup, shipped: list[UploadedMember]
) -> Manifest:
    """Write down what was shipped; refuse if the archive is not whole, or could not be restored."""
    toc = read_toc(dump.toc)
    check_files(toc)
    tables = table_data.tables_of_members(toc)
    names = {member.name for member in shipped}
    if not names.issuperset(tables):
        raise PgS3Error(
            f"pg_dump's table of contents names {sorted(set(tables) - names)[0]}, which was not shipped"
        )
    for name in sorted(names.difference(tables)):
        if name[0].isdigit():
            raise PgS3Error(f"pg_dump wrote {name}, but its table of contents does not say of which table")
    objects = {o.key: o.stored_bytes for member in shipped for o in member.objects}
    members = [_member(member, tables.get(member.name), staged.base) for member in sorted(shipped, key=_dump_id)]
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
            jobs=request.jobs,
        ),
        compression=Compression(method="zstd", level=encoder.level),
        encryption=Encryption(method="age", recipients=encoder.recipients) if encoder.recipients else None,
        producer=Producer(tool="airflow-provider-pg-s3", version=__version__, **request.producer),
        raw_bytes=sum(member.raw_bytes for member in members),
        stored_bytes=sum(objects.values()),
        tables=len(tables),
        rows=sum(member.table.rows for member in members if member.table is not None),
        objects=[
            ObjectRecord(key=key.removeprefix(staged.base), stored_bytes=size) for key, size in objects.items()
        ],
        members=members,
    )


def _member(member: UploadedMember, table: table_data.TableData | None, base: str) -> Member:
    record = None
    if table is not None:
        if member.content.copy_rows is None or member.content.copy_sha256 is None:
            raise PgS3Error(f"the data of {table.schema}.{table.name} ({member.name}) has no end: it is truncated")
        record = Table(
            schema=table.schema,
            name=table.name,
            columns=table.columns,
            rows=member.content.copy_rows,
            content_sha256=member.content.copy_sha256,
            through_root=table.through_root,
        )
    return Member(
        name=member.name,
        objects=[o.key.removeprefix(base) for o in member.objects],
        packed=member.packed,
        raw_bytes=member.content.raw_bytes,
        sha256=member.content.sha256,
        table=record,
    )


def _dump_id(member: UploadedMember) -> tuple[int, str]:
    number = member.name.partition(".")[0]
    return (int(number) if number.isdigit() else 0, member.name)
