"""A backup of ours as the source of a restore: definitions by pg_restore, rows by COPY straight from S3."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres import client_options, client_versions
from airflow_pg_s3.core.postgres.archive.toc import TOC
from airflow_pg_s3.core.postgres.libpq_keywords import check_keywords
from airflow_pg_s3.core.reporting import human
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.manifest import GLOBALS, Manifest
from airflow_pg_s3.core.repository.members import Member
from airflow_pg_s3.core.repository.repository import StoredManifest, read_manifest
from airflow_pg_s3.core.repository.thaw import refuse_archived
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.globals import read_script
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.restore.load.load import Load
from airflow_pg_s3.core.restore.load.pg_restore import PgRestore
from airflow_pg_s3.core.restore.one_transaction import restore_in_one_transaction
from airflow_pg_s3.core.restore.opened_archive import OpenedArchive
from airflow_pg_s3.core.restore.request import check_name, refuse_partial
from airflow_pg_s3.core.restore.restore_steps import ArchiveRestore, plan_restore
from airflow_pg_s3.core.restore.selection import choose, refuse_views_alone
from airflow_pg_s3.core.restore.source import Amounts
from airflow_pg_s3.core.restore.target import Target, refuse_older
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.core.s3.requests import parse_uri
from airflow_pg_s3.core.workspace.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@contextmanager
def open_backup(
    stored: StoredManifest,
    client: S3Client,
    uri: str,
    workspace: Workspace,
    *,
    identities: Sequence[str],
    jobs: int,
    stop: threading.Event,
) -> Iterator[ArchiveFolder]:
    """Open the archive of a backup, and fetch its table of contents.

    :param uri: the manifest's URI.
    :param jobs: number of members that are read at the same time.
    :param stop: set to end downloads.
    :raises InputError: the backup is encrypted, and no identity fits.
    :raises IntegrityError: what S3 holds is not what was backed up.
    """
    bucket, _ = parse_uri(uri, parameter="backup")
    decoder = Decoder(stored.manifest.encryption, identities)
    with Downloader(client, bucket, cancel=stop, threads=jobs + 2) as downloader:
        folder = ArchiveFolder(stored.manifest, stored.base, downloader, decoder, workspace)
        folder.fetch([TOC])
        yield folder


@contextmanager
def open_backup_source(client: S3Client, context: RestoreContext) -> Iterator[BackupSource]:
    """Read the manifest that a request names, and open its archive.

    :raises InputError: there is no such backup, or it does not fit the request.
    :raises Unreadable: objects of the backup are archived, and S3 does not return them yet.
    :raises IntegrityError: what S3 holds is not what was backed up.
    """
    request = context.request
    stored = read_manifest(client, request.backup)
    refuse_archived(client, request.backup, cancel=context.cancel)
    with open_backup(
        stored,
        client,
        request.backup,
        context.workspace,
        identities=request.identities,
        jobs=request.jobs,
        stop=context.stop,
    ) as folder:
        yield BackupSource(folder, context)


class BackupSource:
    """A backup of ours.

    :raises InputError: the backup does not fit the request.
    """

    def __init__(self, folder: ArchiveFolder, context: RestoreContext) -> None:
        self._folder = folder
        self._context = context
        self._has_globals = GLOBALS in folder.members
        request = context.request
        refuse_partial(request, self._manifest)
        check_name(request, self._manifest.database, context.log)
        if request.restore_globals and not self._has_globals:
            raise InputError(
                f"restore_globals=True, but {request.backup} holds no globals, as it was made without "
                "include_globals=True: create the roles, or leave restore_globals out"
            )

    @property
    def _manifest(self) -> Manifest:
        return self._folder.manifest

    @property
    def name(self) -> str:
        """Id of the backup."""
        return self._manifest.backup_id

    @property
    def description(self) -> str:
        """The backup's id, size, database and time, for the log."""
        manifest = self._manifest
        size = human(manifest.raw_bytes)
        return f"{manifest.backup_id} ({size} of {manifest.database}, {manifest.created_at:%Y-%m-%d %H:%M} UTC)"

    def plan(self, target: Target) -> ArchiveRestore:
        """Choose the programs and the entries; nothing is touched.

        :raises InputError: the request, the backup and the target do not fit together.
        :raises DataConflict: the target holds something that is in the way.
        """
        request, manifest = self._context.request, self._manifest
        refuse_older(target.version, manifest.server.version)
        tools = client_versions.for_restore(
            dumped_by=manifest.dump.pg_dump_version, target_version=target.version, search=request.client_path
        )
        check_keywords(target.params, tools.folder, tools.version)
        given = client_options.check(request.pg_restore_options, tools=tools, program="pg_restore")
        chosen = choose(
            self._folder,
            tools=tools,
            wanted=request.wanted,
            options=request.pg_restore_arguments,
            # With "clean", the target is taken to hold what the selected objects need.
            exists=(lambda entry: True) if request.if_exists == "clean" else target.holds,
        )
        if request.if_exists == "clean" and not request.pre_restore_sql:  # which may create what is read
            refuse_views_alone(chosen.entries, self._folder.toc, target.holds)
        if request.wanted.data_only:
            target.refuse_rows(chosen.tables)
        else:
            target.check(chosen.relations)
        archive = OpenedArchive(
            path=self._folder.folder,
            toc=self._folder.toc,
            entries=chosen.entries,
            ties=chosen.ties,
            tools=tools,
            options=request.pg_restore_arguments,
            given=given,
            server=manifest.server,
            lc_monetary=manifest.dump.lc_monetary,
            globals_script=self._globals_script() if request.restore_globals else None,
            has_globals=self._has_globals,
        )
        return plan_restore(archive, _CopyLoader(self._folder, chosen.members), target, self._context)

    def _globals_script(self) -> str:
        self._folder.fetch([GLOBALS])
        return read_script(self._folder.folder / GLOBALS, self._manifest.server.codec)


@dataclass(frozen=True)
class _CopyLoader:
    """Loads a backup of ours.

    :param members: the members that hold the data to restore.
    """

    folder: ArchiveFolder
    members: Sequence[Member]

    @property
    def amounts(self) -> Amounts:
        tables = [member.table for member in self.members if member.table is not None]
        return Amounts(
            tables=len(tables),
            rows=sum(table.rows for table in tables),
            raw_bytes=sum(member.raw_bytes for member in self.members),
            read_bytes=self.folder.downloaded_bytes,
        )

    def obstacles(self, restore: ArchiveRestore) -> Mapping[str, bool]:
        option = "use-set-session-authorization"
        return {f"pg_restore_options has --{option}": option in dict(restore.archive.given)}

    def load(self, restore: ArchiveRestore) -> None:
        data_only = restore.context.request.wanted.data_only
        pg_restore = PgRestore(
            restore.archive,
            restore.target,
            restore.context,
            archive_format="directory",
            # --disable-triggers works only with --data-only.
            options=[*restore.definer.options, *(["--data-only"] * data_only)],
        )
        Load(
            folder=self.folder,
            archive=restore.archive,
            entries=restore.definer.entries_to_load,
            target=restore.target.params,
            pg_restore=pg_restore,
            context=restore.context,
        ).run()

    def restore_in_one_transaction(self, restore: ArchiveRestore) -> None:
        restore_in_one_transaction(restore, self.folder)
