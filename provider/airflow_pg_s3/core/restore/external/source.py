"""The source for an archive of another tool on S3: any format of pg_dump, perhaps compressed by gzip or zstd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_pg_s3.core.documents import document
from airflow_pg_s3.core.errors import Cancelled, InputError
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.external.archive_source import ArchiveSource
from airflow_pg_s3.core.restore.external.detect import ExternalArchive, Format, find_object
from airflow_pg_s3.core.restore.external.plain_source import PlainSource
from airflow_pg_s3.core.restore.request import RestoreRequest
from airflow_pg_s3.core.restore.source import Source
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.core.s3.requests import parse_uri

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


_DOWNLOADS = 4


@contextmanager
def open_external_source(client: S3Client, context: RestoreContext) -> Iterator[Source]:
    """Open the archive that a request names. Errors about the archive's bytes name its URI.

    :raises InputError: it is not an archive, or the request needs a backup of ours.
    :raises StorageError: S3 failed.
    """
    request = context.request
    _check_request(request)
    bucket, _ = parse_uri(request.backup, parameter="backup")
    stored = find_object(client, request.backup)
    with Downloader(client, bucket, cancel=context.stop, threads=_DOWNLOADS) as downloader:
        archive = ExternalArchive(request.backup, stored, _until_cancelled(downloader.stream([stored]), context))
        with archive.about_it():
            yield (PlainSource if archive.format is Format.PLAIN else ArchiveSource)(archive, context)


def _check_request(request: RestoreRequest) -> None:
    if request.wanted.is_part:
        raise InputError(
            "a part can be selected only of backups that PgS3BackupOperator has made: restore all of this archive "
            "into a database of its own"
        )
    if request.restore_globals:
        raise InputError("restore_globals=True, but this archive holds no globals: only backups of ours do")
    if request.pre_data_sql:
        raise InputError(
            "pre_data_sql runs only with backups that PgS3BackupOperator has made: leave it out, or restore this "
            f"archive by hand, see {document('hard-cases.md')}"
        )


def _until_cancelled(chunks: Iterator[bytes], context: RestoreContext) -> Iterator[bytes]:
    for chunk in chunks:
        if context.cancel.is_set():
            raise Cancelled("stopped while downloading")
        yield chunk
