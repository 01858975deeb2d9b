"""The hook: what the operators do, for tasks of your own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Unpack

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseHook

from airflow_pg_s3 import arguments
from airflow_pg_s3.core.backup.backup import back_up
from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.core.copy.copy import CopyRequest, copy
from airflow_pg_s3.core.doctor.doctor import DoctorRequest, examine
from airflow_pg_s3.core.doctor.findings import failures, lines
from airflow_pg_s3.core.errors import Cancelled, InputError, IntegrityError, PgS3Error
from airflow_pg_s3.core.postgres.databases import databases_to_back_up
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.backup_id import LATEST, LATEST_VERIFIED
from airflow_pg_s3.core.repository.backup_name import resolve
from airflow_pg_s3.core.repository.backup_table import archive_row, archive_table, backup_row, listing
from airflow_pg_s3.core.repository.catalog import Selection, list_archives, read_uri, select
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.repository.thaw import ask_for
from airflow_pg_s3.core.restore import request as of_restore
from airflow_pg_s3.core.restore.restore import restore
from airflow_pg_s3.core.retention.facts import facts_of
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from airflow_pg_s3.core.retention.prune import PruneRequest, prune
from airflow_pg_s3.core.verify.request import VerifyRequest
from airflow_pg_s3.core.verify.verify import verify
from airflow_pg_s3.hooks import connections, options
from airflow_pg_s3.hooks.repositories import DEFAULT_AWS_CONN_ID, aws_conn_id_of, name_of, open_repository
from airflow_pg_s3.task_errors import final_error, logged, with_client_path, with_conn_ids
from airflow_pg_s3.telemetry.lineage import Movement, database_dataset, repository_dataset
from airflow_pg_s3.telemetry.links import console_url, page_url
from airflow_pg_s3.telemetry.metrics import measure
from airflow_pg_s3.telemetry.stages import StagedLog

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PRUNED_LISTED = 100
"""Maximum number of entries of each list that a prune returns; the log has all."""

Facts = dict[str, Any]
Rows = list[Facts]


class PgS3Hook(BaseHook):
    """Backs up, lists, restores, verifies, copies and prunes, as the operators do: they call these methods.

    Each method logs what it does, and returns plain values, the same as the operator of its name; ``uri`` is among
    them. Options have the operators' names, meanings and defaults. Where a backup is taken, it is the URI of a
    manifest, ``s3://bucket/prefix/<database>/<name>`` with a name such as ``latest``, or, below `repository`,
    ``<database>/<name>``.

    An operator that Airflow stops undoes its work. A ``@task`` function cannot, as Airflow does not tell it: what
    is left is removed by the next backup or restore, or by a prune.

    :param repository: ``s3://bucket/any/prefix``, or a name in the option ``[pg_s3] repositories``; None if every
        backup is given by its whole URI.
    :param aws_conn_id: AWS connection; None for the machine's own credentials; ``aws_default`` leaves the choice
        to a named repository.
    :param s3_extra_args: further arguments of S3 requests, as of the operators.
    :param cancel: set from any thread to stop what is being done.
    :param log: where to log; None for the hook's own logger.
    :raises AirflowFailException: by each method: the request cannot work, and a retry would not help.
    :raises PgS3Error: by each method: something failed, and a retry may help.
    """

    def __init__(
        self,
        repository: str | None = None,
        aws_conn_id: str | None = DEFAULT_AWS_CONN_ID,
        *,
        s3_extra_args: Mapping[str, Any] | str | None = None,
        cancel: threading.Event | None = None,
        log: Log | None = None,
    ) -> None:
        super().__init__()
        self.repository = repository
        self.aws_conn_id = aws_conn_id
        self.s3_extra_args = s3_extra_args
        self.console_url = self.page_url = ""
        """Of the backup of the last call, on Amazon S3 and on the Backups page."""
        self.movement: Movement | None = None
        """What the last call has moved, for OpenLineage."""
        self._cancel = cancel or threading.Event()
        self._sink: Log = log or self.log
        self._used_aws_conn_id = aws_conn_id

    def back_up(
        self,
        postgres_conn_id: str = "postgres_default",
        database: str | None = None,
        **given: Unpack[options.BackupOptions],
    ) -> Facts:
        """Back a database up, as `PgS3BackupOperator`."""
        options.check_names(given, options.BackupOptions)
        with self._working(postgres_conn_id) as log:
            named = arguments.as_database(database, otherwise="the connection's own")
            others = arguments.coerced(given, options.BACKUP)
            repository, extra_args = self._open()
            request = BackupRequest(
                source=connections.postgres_parameters(postgres_conn_id, named),
                s3_extra_args=extra_args,
                client_path=connections.client_path(log),
                producer=connections.producer(),
                **others,
            )
            facts = back_up(request, repository, cancel=self._cancel, log=log).facts
            self._note(repository.client, facts)
            self.movement = Movement(
                source=database_dataset(request.source),
                target=repository_dataset(facts["uri"]),
                rows=facts["rows"],
                raw_bytes=facts["raw_bytes"],
            )
            measure("backup", facts)
            return facts

    def restore(
        self,
        backup: str | None = None,
        postgres_conn_id: str = "postgres_default",
        database: str | None = None,
        *,
        source_database: str | None = None,
        verified_only: bool | str = False,
        on_thaw: Callable[[str], None] | None = None,
        **given: Unpack[options.RestoreOptions],
    ) -> Facts:
        """Restore a backup, as `PgS3RestoreOperator`.

        :param backup: None for the latest in the repository.
        :param database: database to restore into.
        :param source_database: without `backup`: the database that was backed up; None for the name of the one to
            restore into.
        :param verified_only: without `backup`: take the latest that is verified.
        :param on_thaw: called with the backup's URI, in place of waiting for S3 to restore archived objects.
        """
        options.check_names(given, options.RestoreOptions)
        with self._working(postgres_conn_id) as log:
            named = arguments.as_database(database, otherwise="the connection's own")
            wanted = of_restore.Selection(**arguments.coerced(given, options.SELECTION))
            others = arguments.coerced(given, options.RESTORE)
            thaw = arguments.coerced(given, options.THAW)
            target = connections.postgres_parameters(postgres_conn_id, named)
            source = arguments.as_database(
                source_database, otherwise="the name of the target", parameter="source_database"
            )
            client, _, uri = self._find(backup, source, verified_only, otherwise=target.database)
            request = of_restore.RestoreRequest(
                backup=uri,
                target=target,
                is_target_named=named is not None,
                wanted=wanted,
                client_path=connections.client_path(log),
                identities=self._identities(given),
                **others,
            )
            self._wait_for_thaw(client, uri, thaw, on_thaw)
            facts = restore(request, client, cancel=self._cancel, log=log).facts
            self._note(client, facts)
            self.movement = Movement(
                source=repository_dataset(uri),
                target=database_dataset(target),
                rows=facts["rows"],
                raw_bytes=facts["raw_bytes"],
            )
            measure("restore", facts)
            return facts

    def verify(
        self,
        backup: str | None = None,
        postgres_conn_id: str | None = None,
        *,
        database: str | None = None,
        verified_only: bool | str = False,
        **given: Unpack[options.VerifyOptions],
    ) -> Facts:
        """Verify a backup, as `PgS3VerifyOperator`.

        :param backup: None for the latest in the repository.
        :param database: without `backup`: the database that was backed up.
        :param verified_only: without `backup`: take the latest that is verified already.
        :raises AirflowFailException: the backup failed verification.
        :raises AirflowException: the verification could not be completed.
        """
        options.check_names(given, options.VerifyOptions)
        with self._working(postgres_conn_id) as log:
            others = arguments.coerced(given, options.VERIFY)
            client, extra_args, uri = self._find(backup, database, verified_only)
            server = arguments.as_optional_text(postgres_conn_id, "postgres_conn_id")
            request = VerifyRequest(
                backup=uri,
                # The connection's own database is not used: a scratch database is created on its server.
                server=connections.postgres_parameters(server, None) if server else None,
                identities=self._identities(given),
                client_path=connections.client_path(log),
                s3_extra_args=extra_args,
                producer=connections.producer(),
                **others,
            )
            try:
                result = verify(request, client, cancel=self._cancel, log=log)
            except IntegrityError as error:
                failure = AirflowFailException(f"{uri} FAILED verification: {error}")
                raise logged(failure, self._sink) from None
        facts = result.facts(uri)
        self._note(client, facts)
        sentence = self._named(result.sentence, server)
        if facts["outcome"] == "failed":
            raise logged(AirflowFailException(sentence), self._sink)
        if facts["outcome"] == "could not verify":
            kind = AirflowException if result.retry_may_help else AirflowFailException
            raise logged(kind(sentence), self._sink)
        measure("verification", facts)
        return facts

    def copy(
        self,
        backup: str | None,
        to_repository: str,
        *,
        to_aws_conn_id: str | None = DEFAULT_AWS_CONN_ID,
        to_s3_extra_args: Mapping[str, Any] | str | None = None,
        database: str | None = None,
        verified_only: bool | str = False,
    ) -> Facts:
        """Copy a backup into another repository, as `PgS3CopyOperator`.

        :param backup: None for the latest in the repository.
        :param database: without `backup`: the database that was backed up.
        :param verified_only: without `backup`: take the latest that is verified.
        """
        with self._working() as log:
            client, _, uri = self._find(backup, database, verified_only)
            # Messages speak of either connection.
            self._used_aws_conn_id = None
            given = arguments.as_mapping(to_s3_extra_args, "to_s3_extra_args")
            other, extra_args = open_repository(to_repository, to_aws_conn_id, given)
            request = CopyRequest(backup=uri, s3_extra_args=extra_args)
            facts = copy(request, client, other, cancel=self._cancel, log=log).facts
            self._note(other.client, facts)
            return facts

    def prune(self, database: str | None = None, **given: Unpack[options.PruneOptions]) -> Facts:
        """Delete the backups that no rule keeps, as `PgS3PruneOperator`."""
        options.check_names(given, options.PruneOptions)
        with self._working() as log:
            named = arguments.as_database(database, otherwise="the backups of every database, each by itself")
            retention = RetentionPolicy(**arguments.coerced(given, options.RETENTION))
            others = arguments.coerced(given, options.PRUNE)
            repository, extra_args = self._open()
            request = PruneRequest(retention=retention, database=named, s3_extra_args=extra_args, **others)
            done = prune(request, repository, cancel=self._cancel, log=log)
            facts = facts_of(repository, done, listed=PRUNED_LISTED)
            return {"dry_run": request.dry_run} | facts

    def get(self, backup: str) -> Facts:
        """Return what is known of a backup: an entry of `list`."""
        with self._working():
            client, _, uri = self._find(backup, None, verified_only=False)
            return backup_row(read_uri(client, uri, self._sink))

    def latest(self, database: str | None = None, **given: Unpack[options.ListOptions]) -> Facts:
        """Return the newest backup of those that `list` would return.

        :raises AirflowFailException: there is none.
        """
        return self.list(database, fail_if_empty=True, **given | {"limit": 1})[0]

    def list(
        self,
        database: str | None = None,
        *,
        pattern: str | None = None,
        fail_if_empty: bool | str = False,
        **given: Unpack[options.ListOptions],
    ) -> Rows:
        """List backups, newest first, as `PgS3ListBackupsOperator`."""
        options.check_names(given, options.ListOptions)
        return list_backups([self], database, pattern=pattern, fail_if_empty=fail_if_empty, **given)

    def databases(self, postgres_conn_id: str = "postgres_default") -> Sequence[str]:
        """List the databases of a server, the largest first.

        Left out are templates, and what restores and verifications have created beside a database, or replaced.
        """
        with self._working(postgres_conn_id):
            return databases_to_back_up(connections.postgres_parameters(postgres_conn_id, None))

    def examine(
        self,
        postgres_conn_id: str = "postgres_default",
        database: str | None = None,
        **given: Unpack[options.DoctorOptions],
    ) -> Facts:
        """Say what would fail in a backup, as `PgS3DoctorOperator`.

        :raises AirflowFailException: a backup would fail.
        """
        options.check_names(given, options.DoctorOptions)
        with self._working(postgres_conn_id) as log:
            named = arguments.as_database(database, otherwise="the connection's own")
            others = arguments.coerced(given, options.DOCTOR)
            repository, extra_args = self._open()
            request = DoctorRequest(
                source=connections.postgres_parameters(postgres_conn_id, named),
                client_path=connections.client_path(log),
                s3_extra_args=extra_args,
                **others,
            )
            examined = examine(request, repository, cancel=self._cancel)
        findings = [
            replace(
                one,
                found=self._named(one.found, postgres_conn_id),
                advice=self._named(one.advice, postgres_conn_id),
            )
            for one in examined
        ]
        for line in lines(findings):
            self._sink.info("%s", line)
        if failed := failures(findings):
            what = ", ".join(finding.check for finding in failed)
            raise logged(AirflowFailException(f"a backup would fail; see FAILURE above: {what}"), self._sink)
        return {"ok": True, "findings": [finding.facts for finding in findings]}

    @contextlib.contextmanager
    def _working(self, postgres_conn_id: str | None = None) -> Iterator[StagedLog]:
        """Context manager, which gives core's log: log errors once; those that no retry can help end the task.

        :raises AirflowFailException: no retry can help.
        """
        log = StagedLog(self._sink)
        try:
            yield log
        except PgS3Error as error:
            log.end_stage()
            raise final_error(error, self._sink, lambda text: self._named(text, postgres_conn_id)) from None
        finally:
            log.end_stage()

    def _named(self, message: str, postgres_conn_id: str | None) -> str:
        """Let a message name the Airflow connections and settings that it speaks of."""
        message = with_client_path(message, connections.client_path())
        return with_conn_ids(message, postgres_conn_id, self._used_aws_conn_id)

    def _note(self, client: S3Client, facts: Facts) -> None:
        self.console_url = console_url(client, facts["uri"])
        # What is done is done, even if the option is malformed.
        with contextlib.suppress(InputError):
            name = name_of(facts["uri"])
            self.page_url = "" if name is None else page_url(name, facts["uri"])

    def _open(self) -> tuple[Repository, Facts]:
        if self.repository is None:
            raise InputError("repository must be given: s3://bucket/prefix, or a name")
        self._used_aws_conn_id = aws_conn_id_of(self.repository, self.aws_conn_id)
        return open_repository(self.repository, self.aws_conn_id, self._s3_extra_args())

    def _s3_extra_args(self) -> Facts:
        return arguments.as_mapping(self.s3_extra_args, "s3_extra_args")

    def _find(
        self, backup: str | None, database: str | None, verified_only: bool | str, otherwise: str | None = None
    ) -> tuple[S3Client, Facts, str]:
        """Find a backup: by its URI or name, or else the latest of a database.

        :param otherwise: name of that database, if none is given.
        :returns: S3 client, extra arguments for requests that store objects, URI.
        """
        name = arguments.as_optional_text(backup, "backup")
        is_verified = arguments.as_bool(verified_only, "verified_only")
        if name is not None and (database is not None or is_verified):
            raise InputError(
                f"backup={name!r} is one backup: leave it out, or the arguments that choose one in the repository"
            )
        if name is not None and self.repository is None:
            client, extra_args = connections.s3_client(self.aws_conn_id, self._s3_extra_args())
            return client, extra_args, resolve(client, name, self._sink)
        repository, extra_args = self._open()
        if name is None:
            source = arguments.as_database(otherwise if database is None else database)
            newest = LATEST_VERIFIED if is_verified else LATEST
            name = repository.uri(f"{repository.base(source or '')}{newest}")
        elif not name.startswith("s3://"):
            name = f"{repository.root}/{name}"
        return repository.client, extra_args, resolve(repository.client, name, self._sink)

    def _identities(self, given: Mapping[str, Any]) -> Sequence[str]:
        conn_id = arguments.as_optional_text(given.get("age_identity_conn_id"), "age_identity_conn_id")
        return connections.age_identities(conn_id)

    def _wait_for_thaw(
        self, client: S3Client, uri: str, given: Mapping[str, Any], on_thaw: Callable[[str], None] | None
    ) -> None:
        tier, days = given.get("thaw"), given.get("thaw_days", options.DEFAULT_THAW_DAYS)
        while tier and ask_for(client, uri, tier=tier, days=days, cancel=self._cancel, log=self._sink):
            if on_thaw is not None:
                on_thaw(uri)
            if self._cancel.wait(options.THAW_INTERVAL.total_seconds()):
                raise Cancelled("stopped while waiting for S3 to restore archived objects")


def list_backups(
    hooks: Sequence[PgS3Hook],
    database: str | None = None,
    *,
    pattern: str | None = None,
    fail_if_empty: bool | str = False,
    **given: Unpack[options.ListOptions],
) -> Rows:
    """List the backups in several repositories, newest first in each, as one table in the log of the first hook.

    :param hooks: at least one.
    """
    with hooks[0]._working() as log:
        named = arguments.as_database(database, otherwise="the backups of every database")
        wanted = Selection(database=named, **arguments.coerced(given, options.LIST))
        if wanted.limit is not None and wanted.limit < 1:
            raise InputError(f"limit must be at least 1, not {wanted.limit}")
        is_needed = arguments.as_bool(fail_if_empty, "fail_if_empty")
        archives = arguments.as_optional_text(pattern, "pattern")
        repositories = [hook._open()[0] for hook in hooks]
        rows, table = _listed(repositories, archives, wanted, log)
        what = _described(f"in {', '.join(str(hook.repository) for hook in hooks)}", archives, wanted)
        if not rows and is_needed:
            raise InputError(f"there is no backup {what}: has one been made, and is the prefix right?")
    may_be_more = wanted.limit is not None and len(rows) >= wanted.limit
    number = f"the newest {len(rows)} of the backups" if may_be_more else f"number of backups: {len(rows)},"
    log.info("%s %s", number, what)
    for line in table if rows else []:
        log.info("%s", line)
    return rows


def _listed(
    repositories: Sequence[Repository], pattern: str | None, wanted: Selection, log: Log
) -> tuple[Rows, Sequence[str]]:
    """List backups, or another tool's archives: for programs, and as a table for people."""
    now = datetime.now(UTC)
    if pattern is None:
        entries = [entry for repository in repositories for entry in select(repository, wanted, log)]
        return [backup_row(entry) for entry in entries], listing(entries, now)
    refs = [ref for repository in repositories for ref in list_archives(repository, pattern, wanted)]
    return [archive_row(ref) for ref in refs], archive_table(refs, now)


def _described(where: str, pattern: str | None, wanted: Selection) -> str:
    parts = [where]
    if wanted.database:
        parts.append(f"of database {wanted.database!r}")
    if pattern:
        parts.append(f"matching {pattern!r}")
    if wanted.before:
        parts.append(f"before {wanted.before}")
    if wanted.labels:
        parts.append(f"with labels {wanted.labels}")
    if wanted.verified_only:
        parts.append("that is verified")
    return " ".join(parts)
