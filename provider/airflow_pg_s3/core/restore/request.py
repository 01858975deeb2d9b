"""What to restore, where to, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres import client_options
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.manifest import Manifest

IfExists = Literal["fail", "clean", "replace"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What the user selects; nothing means everything.

    :param tables: patterns of tables, with what is attached to them.
    :param schemas: patterns of schemas, with all that they hold.
    :param exclude_tables: patterns of tables to leave out, with all that depends on them.
    :param schema_only: definitions without data.
    :param data_only: data without definitions; the tables must be there, and empty.
    """

    tables: Sequence[str] = ()
    schemas: Sequence[str] = ()
    exclude_tables: Sequence[str] = ()
    schema_only: bool = False
    data_only: bool = False

    @property
    def is_part(self) -> bool:
        """Whether it is less than everything."""
        return bool(self.has_patterns or self.schema_only or self.data_only)

    @property
    def only_excludes(self) -> bool:
        """Whether it is everything but `exclude_tables`."""
        return not (self.tables or self.schemas or self.schema_only or self.data_only)

    @property
    def has_patterns(self) -> bool:
        """Whether objects are selected by name."""
        return bool(self.tables or self.schemas or self.exclude_tables)


@dataclass(frozen=True, kw_only=True)
class RestoreRequest:
    """What to restore, where, and how.

    :param backup: URI of the manifest.
    :param target: the database to restore into; created like the source's if it does not exist.
    :param if_exists: ``fail`` refuses a database that holds anything; ``clean`` drops what the backup also holds;
        ``replace`` restores beside the database and then swaps their names.
    :param is_target_named: the target's name was given for this restore, not only found in a connection: it may be
        another one than that of the database that was backed up.
    :param keep_previous: with ``replace``, keep the old database under another name.
    :param jobs: parallel pg_restore jobs, each with a connection.
    :param single_transaction: let ``clean`` drop and restore, and data alone come, in one transaction, which takes
        one connection alone; if False, a failure leaves the target with a part of what is restored.
    :param create_database: whether a database that does not exist is created.
    :param wanted: what of the backup to restore.
    :param no_owner: let everything belong to the restoring user.
    :param no_privileges: leave out GRANT and REVOKE.
    :param restore_globals: first create the roles and tablespaces that the backup holds and the server has not.
    :param allow_partial: let ``replace`` and ``clean`` lose what a backup of a part does not bring back.
    :param managed_service: leave out what the user, who is no superuser, may not create, and say so.
    :param pre_restore_sql: commands to run in the target, in one transaction, before anything is dropped or
        restored; with a ``clean`` that is one transaction, within that. With other tools' archives they get a
        session of their own, and nothing of them stays where such a ``clean`` cannot drop.
    :param pre_data_sql: the same between definitions and rows.
    :param post_restore_sql: commands to run in the restored database, in one transaction.
    :param identities: age identities that may open an encrypted backup.
    :param allow_unsafe_psql: replay plain dumps also with a psql that a dump can make run commands.
    """

    backup: str
    target: ConnectionParameters
    if_exists: IfExists = "fail"
    is_target_named: bool = True
    keep_previous: bool = True
    jobs: int = 2
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
        """Options of pg_restore that the user has chosen, in either way."""
        arguments = ["--no-owner"] * self.no_owner + ["--no-privileges"] * self.no_privileges
        return [*self.pg_restore_options, *arguments]


def can_be_atomic(
    request: RestoreRequest, obstacles: Mapping[str, bool], log: Log, *, what: str = "if_exists='clean'"
) -> bool:
    """Whether a restore that must not be half done can be one transaction; warn if not.

    :param obstacles: what stands in the way, where it does.
    :param what: such a restore, for people.
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
    elif request.jobs > 1:
        log.info(
            "%s works in one transaction, and so over one connection; single_transaction=False takes jobs=%d",
            what,
            request.jobs,
        )
    return not reasons


def check_request(request: RestoreRequest) -> None:
    """Refuse what contradicts itself.

    :raises InputError: naming the arguments.
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


def check_name(request: RestoreRequest, source: str, warn: Callable[[str], None]) -> None:
    """Say that the backup is of a database with another name than the target's, unless that name was given.

    :param source: name of the database that was backed up.
    :param warn: takes a sentence.
    :raises InputError: the target would be replaced.
    """
    target = request.target.database
    if request.is_target_named or source == target:
        return
    if request.if_exists == "replace":
        raise InputError(
            f"{request.backup} is a backup of the database {source!r}, and the connection's is {target!r}, which "
            f"would be replaced by another one: if that is meant, give database={target!r}"
        )
    warn(f"the backup is of the database {source!r}, and is restored into {target!r}, as the connection says")


def refuse_partial(request: RestoreRequest, manifest: Manifest) -> None:
    """Refuse a backup that leaves the target without what it had, unless that is meant.

    :raises InputError: naming the options of pg_dump that left something out.
    """
    lacking = manifest.dump.left_out_by
    if request.if_exists == "clean":
        # Which drops no more than the backup holds.
        lacking = [option for option in lacking if option.removeprefix("--") in client_options.PG_DUMP_HOLLOW]
    if lacking:
        refuse_loss(request, f"lacks what {', '.join(lacking)} left out of it")


def refuse_loss(request: RestoreRequest, reason: str) -> None:
    """Refuse to lose what the target holds and the backup does not, unless that is meant.

    :param reason: what of the backup tells that it is not whole.
    :raises InputError: with the reason.
    """
    if request.if_exists != "fail" and not request.allow_partial:
        raise InputError(
            f"{request.backup} {reason}: with if_exists={request.if_exists!r} this would be gone from "
            f"{request.target.database}. Give allow_partial=True if that is meant, or restore into a database of "
            "its own"
        )
