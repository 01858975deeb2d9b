"""The request of a restore: what to restore, where, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres import client_options
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.manifest import Manifest

DEFAULT_JOBS = 2

IfExists = Literal["fail", "clean", "replace"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The user's selection; an empty one means everything.

    :param tables: patterns of tables, which come with what is attached to them.
    :param schemas: patterns of schemas, which come with everything in them.
    :param exclude_tables: patterns of tables to leave out, with everything that depends on them.
    :param schema_only: definitions without data.
    :param data_only: data without definitions; the tables must exist and be empty.
    """

    tables: Sequence[str] = ()
    schemas: Sequence[str] = ()
    exclude_tables: Sequence[str] = ()
    schema_only: bool = False
    data_only: bool = False

    @property
    def is_part(self) -> bool:
        """True if less than everything is selected."""
        return bool(self.has_patterns or self.schema_only or self.data_only)

    @property
    def only_excludes(self) -> bool:
        """True if nothing but `exclude_tables` limits the selection."""
        return not (self.tables or self.schemas or self.schema_only or self.data_only)

    @property
    def has_patterns(self) -> bool:
        """True if objects are selected by name."""
        return bool(self.tables or self.schemas or self.exclude_tables)


@dataclass(frozen=True, kw_only=True)
class RestoreRequest:
    """What to restore, where, and how.

    :param backup: URI of the manifest.
    :param target: the database to restore into; created like the source's if it does not exist.
    :param if_exists: ``fail`` refuses a database that holds anything; ``clean`` drops what the backup also holds;
        ``replace`` restores beside the database and then swaps their names.
    :param is_target_named: whether the target's name was given for this restore, instead of taken from a
        connection; it may then differ from the name of the database that was backed up.
    :param keep_previous: with ``replace``, keep the old database under another name.
    :param jobs: number of parallel pg_restore jobs, each with a connection.
    :param single_transaction: run ``clean`` and ``data_only`` restores in one transaction, which means over one
        connection; if False, a failure leaves the target partly restored.
    :param create_database: whether a database that does not exist is created.
    :param wanted: the part of the backup to restore.
    :param no_owner: make the restoring user the owner of everything.
    :param no_privileges: leave out GRANT and REVOKE.
    :param restore_globals: first create the roles and tablespaces that the backup holds and the server lacks.
    :param allow_partial: allow ``replace`` and ``clean`` to lose what a partial backup does not bring back.
    :param managed_service: leave out, with a warning, what a user who is not a superuser may not create.
    :param pre_restore_sql: commands to run in the target, in one transaction, before anything is dropped or
        restored; if a ``clean`` is one transaction, they are part of it. With another tool's archive they run in a
        session of their own, and are rolled back if such a ``clean`` cannot drop something.
    :param pre_data_sql: the same, but between definitions and rows.
    :param post_restore_sql: commands to run in the restored database, in one transaction.
    :param identities: age identities to decrypt an encrypted backup with.
    :param allow_unsafe_psql: replay plain dumps even with a psql that a dump can make run shell commands.
    """

    backup: str
    target: ConnectionParameters
    if_exists: IfExists = "fail"
    is_target_named: bool = True
    keep_previous: bool = True
    jobs: int = DEFAULT_JOBS
    single_transaction: bool = True
    create_database: bool = True
    wanted: Selection = field(default_factory=Selection)
    pg_restore_options: Sequence[str] = ()
    no_owner: bool = False
    no_privileges: bool = False
    restore_globals: bool = False
    allow_partial: bool = False
    managed_service: bool = False
    pre_restore_sql: Sequence[str] = ()
    pre_data_sql: Sequence[str] = ()
    post_restore_sql: Sequence[str] = ()
    spool_dir: str | None = None
    client_path: Sequence[str] = ()
    identities: Sequence[str] = ()
    allow_unsafe_psql: bool = False

    @property
    def pg_restore_arguments(self) -> list[str]:
        """The user's options for pg_restore, including those given as arguments of their own."""
        arguments = ["--no-owner"] * self.no_owner + ["--no-privileges"] * self.no_privileges
        return [*self.pg_restore_options, *arguments]


def can_be_atomic(
    request: RestoreRequest, obstacles: Mapping[str, bool], log: Log, *, what: str = "if_exists='clean'"
) -> bool:
    """True if a restore that must not be half done can be one transaction; warns if not.

    :param obstacles: reasons why not, and whether each applies.
    :param what: the kind of restore, for the log.
    """
    obstacles = {"single_transaction=False says": not request.single_transaction, **obstacles}
    reasons = [reason for reason, applies in obstacles.items() if applies]
    if reasons:
        log.warning(
            "%s works without a transaction, as %s: if it fails, %s is neither old nor new",
            what,
            "; ".join(reasons),
            request.target.database,
        )
    elif request.jobs > DEFAULT_JOBS:
        log.info(
            "%s works in one transaction, and so over one connection; single_transaction=False takes jobs=%d",
            what,
            request.jobs,
        )
    return not reasons


def check_request(request: RestoreRequest) -> None:
    """Refuse a request that contradicts itself.

    :raises InputError: it does; the message names the arguments.
    """
    if request.jobs < 1:
        raise InputError(f"jobs must be at least 1, not {request.jobs}")
    if request.if_exists not in ("fail", "clean", "replace"):
        raise InputError(f"if_exists must be 'fail', 'clean' or 'replace', not {request.if_exists!r}")
    wanted = request.wanted
    if request.if_exists == "replace" and wanted.is_part and not (wanted.only_excludes and request.allow_partial):
        raise InputError(
            'if_exists="replace" would leave nothing but the selection: restore all, choose another, or give '
            "exclude_tables alone with allow_partial=True"
        )
    if request.if_exists == "clean" and wanted.data_only:
        raise InputError('if_exists="clean" drops tables, and data_only does not create them: give one of the two')
    if wanted.schema_only and wanted.data_only:
        raise InputError("schema_only and data_only together leave nothing: give one of the two")
    for parameter in ("tables", "schemas", "exclude_tables"):
        if isinstance(getattr(wanted, parameter), str):
            raise InputError(f"{parameter} must be a list, not the string {getattr(wanted, parameter)!r}")


def check_name(request: RestoreRequest, source: str, log: Log) -> None:
    """Say if the database that was backed up has another name than the target, unless that name was given.

    :param source: name of the database that was backed up.
    :raises InputError: the names differ, and the target would be replaced.
    """
    target = request.target.database
    if request.is_target_named or source == target:
        return
    if request.if_exists == "replace":
        raise InputError(
            f"{request.backup} is a backup of the database {source!r}, and the connection's is {target!r}, which "
            f"would be replaced by another one: if that is meant, give database={target!r}"
        )
    log.info(
        "no database was named, so the backup of %r is restored into %r, the connection's own", source, target
    )


def refuse_partial(request: RestoreRequest, manifest: Manifest) -> None:
    """Refuse a partial backup if the target would lose data, unless ``allow_partial`` is given.

    :raises InputError: it would; the message names pg_dump's options that left something out.
    """
    lacking = manifest.dump.left_out_by
    if request.if_exists == "clean":
        # "clean" drops no more than the backup holds.
        lacking = [option for option in lacking if option.removeprefix("--") in client_options.PG_DUMP_HOLLOW]
    if lacking:
        refuse_loss(request, f"lacks what {', '.join(lacking)} left out of it")


def refuse_loss(request: RestoreRequest, reason: str) -> None:
    """Refuse to lose what the target holds and the backup does not, unless ``allow_partial`` is given.

    :param reason: how the backup is incomplete, as a predicate of the backup.
    :raises InputError: the target would lose something; the message gives the reason.
    """
    if request.if_exists != "fail" and not request.allow_partial:
        raise InputError(
            f"{request.backup} {reason}: with if_exists={request.if_exists!r} this would be gone from "
            f"{request.target.database}. Give allow_partial=True if that is meant, or restore into a database of "
            "its own"
        )
