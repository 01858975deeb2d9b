"""Fields of the form that Airflow shows when a DAG is triggered, for the DAGs in ``example_dags`` and for yours.

Each returns a `Param`, whose default comes from an environment variable of the Airflow processes.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Param

from airflow_pg_s3.hooks.repositories import DEFAULT_AWS_CONN_ID, named_repositories

REPOSITORY = "s3://backups/postgres"
RESTORE = "Restore"
PART = "A part of the backup"
RIGHTS = "Owners and rights"
STORAGE = "How it is stored"


# -- what no form shows -------------------------------------------------------------------------------------------


def default_repository() -> str:
    """Return ``PG_S3_REPOSITORY``; without it, the URI of the only one in the option ``[pg_s3] repositories``."""
    return _repository_and_account()[0]


def default_aws_conn_id() -> str:
    """Return ``PG_S3_AWS_CONN_ID``; without it, the connection of the repository that the option gives."""
    return os.environ.get("PG_S3_AWS_CONN_ID", _repository_and_account()[1])


def _repository_and_account() -> tuple[str, str]:
    if "PG_S3_REPOSITORY" in os.environ:
        return os.environ["PG_S3_REPOSITORY"], DEFAULT_AWS_CONN_ID
    match named_repositories():
        case [only]:
            return only.uri, only.aws_conn_id or DEFAULT_AWS_CONN_ID
    return REPOSITORY, DEFAULT_AWS_CONN_ID


def all_repositories() -> list[str]:
    """Return ``PG_S3_REPOSITORY``, and one below it for each connection in ``PG_S3_FLEET_SERVERS``."""
    root = default_repository()
    servers = os.environ.get("PG_S3_FLEET_SERVERS", "").split()
    return [root, *(f"{root.rstrip('/')}/{server}" for server in servers)]


def s3_extra_args() -> dict[str, Any]:
    """Return ``PG_S3_EXTRA_ARGS``, a JSON object: further arguments of S3 requests."""
    return dict(json.loads(os.environ.get("PG_S3_EXTRA_ARGS") or "{}"))


def pool() -> str:
    """Return ``PG_S3_POOL``, the Airflow pool that heavy tasks take a slot of."""
    return os.environ.get("PG_S3_POOL", "default_pool")


def time_limit() -> timedelta:
    """Return ``PG_S3_TIMEOUT_HOURS`` as the execution timeout of a task."""
    return timedelta(hours=float(os.environ.get("PG_S3_TIMEOUT_HOURS", "12")))


def is_set(variable: str, *, default: bool = False) -> bool:
    """Return whether an environment variable says true; only true and false change the default."""
    text = os.environ.get(variable, "").strip().lower()
    return text == "true" if text in ("true", "false") else default


# -- connections --------------------------------------------------------------------------------------------------


def repository() -> Param:
    """Return the field of the repository (``PG_S3_REPOSITORY``)."""
    return Param(
        default_repository(),
        type="string",
        pattern=r"^(s3://[^/]+|[^/:\s]+$)",
        title="Repository",
        description="Where the backups are: s3://bucket/prefix, or a name in the option [pg_s3] repositories",
    )


def aws_conn_id() -> Param:
    """Return the field of the S3 account (``PG_S3_AWS_CONN_ID``)."""
    return _connection("PG_S3_AWS_CONN_ID", default_aws_conn_id(), "Connection of the S3 account")


def source_conn_id() -> Param:
    """Return the field of the server that is backed up (``PG_S3_SOURCE_CONN_ID``)."""
    return _connection("PG_S3_SOURCE_CONN_ID", "postgres_default", "Connection of the server to back up")


def named_by_conn_id() -> Param:
    """Return the field of a connection of which only the database's name is used (``PG_S3_SOURCE_CONN_ID``)."""
    return _connection(
        "PG_S3_SOURCE_CONN_ID",
        "postgres_default",
        "Connection that names the database",
        "Its database is the one whose backups count. Nobody connects to it.",
    )


def target_conn_id(**schema: Any) -> Param:
    """Return the field of the server to restore into (``PG_S3_TARGET_CONN_ID``); none is assumed."""
    return Param(
        os.environ.get("PG_S3_TARGET_CONN_ID", ""),
        type=["string", "null"],
        title="Connection of the server to restore into",
        description="A restore needs it. PG_S3_TARGET_CONN_ID in Airflow's environment fills it in.",
        **schema,
    )


def staging_conn_id() -> Param:
    """Return the field of the server whose database is refreshed (``PG_S3_STAGING_CONN_ID``)."""
    return _connection(
        "PG_S3_STAGING_CONN_ID",
        "postgres_staging",
        "Connection of the server to restore into",
        "Its database is replaced: all connections to it are cut at the swap, and it is dropped.",
    )


def identity_conn_id(**schema: Any) -> Param:
    """Return the field of the connection that decrypts (``PG_S3_AGE_IDENTITY_CONN_ID``)."""
    return Param(
        os.environ.get("PG_S3_AGE_IDENTITY_CONN_ID", ""),
        type=["string", "null"],
        title="Connection of the age identity",
        description="For encrypted backups: its password is the identity, AGE-SECRET-KEY-1… "
        "PG_S3_AGE_IDENTITY_CONN_ID in Airflow's environment fills it in.",
        **schema,
    )


def _connection(variable: str, default: str, title: str, purpose: str = "") -> Param:
    return Param(
        os.environ.get(variable, default),
        type="string",
        minLength=1,
        title=title,
        description=f"{purpose} {variable} in Airflow's environment fills it in.".lstrip(),
    )


# -- which database, which backup ---------------------------------------------------------------------------------


def database(purpose: str = "whose backups count", otherwise: str = "the one that the connection names") -> Param:
    """Return the field of the source's database (``PG_S3_DATABASE``)."""
    return Param(
        os.environ.get("PG_S3_DATABASE", ""),
        type=["string", "null"],
        title="Database",
        description=f"The database {purpose}; empty: {otherwise}",
    )


def verified_only(variable: str = "PG_S3_VERIFIED_ONLY", *, default: bool = False, **schema: Any) -> Param:
    """Return the field that leaves out backups that are not verified (``PG_S3_VERIFIED_ONLY``)."""
    return Param(
        is_set(variable, default=default),
        type="boolean",
        title="Verified backups only",
        description="Take the newest backup that was restored and compared, even if a newer one exists",
        **schema,
    )


def before(**schema: Any) -> Param:
    """Return the field of the time before which a backup was made."""
    return Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Made before",
        description="Take the newest backup that is older than this time; empty: the newest",
        **schema,
    )


# -- backups ------------------------------------------------------------------------------------------------------


def jobs() -> Param:
    """Return the field of the number of parallel jobs (``PG_S3_JOBS``)."""
    return Param(
        int(os.environ.get("PG_S3_JOBS", "2")),
        type="integer",
        minimum=1,
        maximum=64,
        title="Jobs",
        description="Number of tables at the same time; each takes a database connection",
    )


def stored() -> dict[str, Param]:
    """Return the fields that say how a backup is stored, and what with it."""
    return {
        "include_globals": Param(
            is_set("PG_S3_INCLUDE_GLOBALS"),
            type="boolean",
            title="With roles and tablespaces",
            description="Store the server's roles, memberships and tablespaces too, without passwords",
            section=STORAGE,
        ),
        "age_recipients": Param(
            os.environ.get("PG_S3_AGE_RECIPIENTS", "").split(),
            type=["array", "null"],
            items={"type": "string", "minLength": 1},
            title="Encrypt for",
            description="Recipients of age, one per line: age1…; empty: not encrypted",
            section=STORAGE,
        ),
        "labels": Param(
            json.loads(os.environ.get("PG_S3_LABELS") or "{}"),
            type=["object", "null"],
            title="Labels",
            description='To find the backup by, such as {"release": "42"}; the label hold keeps it for ever',
            section=STORAGE,
        ),
        "full": Param(
            False,
            type="boolean",
            title="Store everything anew",
            description="Also what earlier backups have stored; takes as much space as the first backup",
            section=STORAGE,
        ),
    }


# -- restores -----------------------------------------------------------------------------------------------------


def target_database(**schema: Any) -> Param:
    """Return the field of the database to restore into (``PG_S3_TARGET_DATABASE``)."""
    return Param(
        os.environ.get("PG_S3_TARGET_DATABASE", ""),
        type=["string", "null"],
        title="Database to restore into",
        description="Empty: the one that the connection names. One with another name than the backed-up database "
        "is only replaced if you name it here.",
        **schema,
    )


def if_exists(default: str = "fail", **schema: Any) -> Param:
    """Return the field that says what becomes of a database that exists."""
    return Param(
        default,
        type="string",
        enum=["fail", "clean", "replace"],
        title="If the database exists",
        values_display={
            "fail": "fail if it holds anything",
            "clean": "clean: drop what the backup brings, and restore it",
            "replace": "replace: restore beside it, then swap the names",
        },
        description="replace cuts all connections to the database at the swap, and keeps the old one as "
        "<database>__before_<6 hex digits>, until you drop it. clean works inside the database, in one "
        "transaction: if anything fails, nothing has changed.",
        **schema,
    )


def allow_partial(**schema: Any) -> Param:
    """Return the field that allows incomplete backups to replace something (``PG_S3_ALLOW_PARTIAL``)."""
    return Param(
        is_set("PG_S3_ALLOW_PARTIAL"),
        type="boolean",
        title="Allow incomplete backups",
        description="With clean and replace: the database loses what pg_dump's options left out of the backup",
        **schema,
    )


def part() -> dict[str, Param]:
    """Return the fields that select a part of a backup."""
    names: dict[str, Any] = {
        "type": ["array", "null"],
        "items": {"type": "string", "minLength": 1},
        "section": PART,
    }
    return {
        "tables": Param(
            [],
            title="Tables",
            description="Restore these tables only, one per line, such as public.orders or audit.*; empty: all",
            **names,
        ),
        "schemas": Param(
            [], title="Schemas", description="Restore these schemas only, one per line; empty: all", **names
        ),
        "data_only": Param(
            False,
            type="boolean",
            title="Rows only",
            description="Restore rows into tables that exist and are empty",
            section=PART,
        ),
    }


def rights() -> dict[str, Param]:
    """Return the fields about roles, which belong to a server and not to a database."""
    flags = {
        "no_owner": (
            "PG_S3_NO_OWNER",
            "Own everything yourself",
            "Make the connection's user the owner of everything: for a server that lacks the source's roles",
        ),
        "no_privileges": ("PG_S3_NO_PRIVILEGES", "Without privileges", "Leave out GRANT and REVOKE"),
        "restore_globals": (
            "PG_S3_RESTORE_GLOBALS",
            "Create missing roles",
            "First create the roles and tablespaces that the server lacks, if the backup holds them "
            '("With roles and tablespaces"); they have no passwords',
        ),
        "managed_service": (
            "PG_S3_MANAGED_SERVICE",
            "Managed service",
            "The server is RDS, Cloud SQL, Azure or the like: leave out what only superusers may create",
        ),
    }
    return {
        name: Param(is_set(variable), type="boolean", title=title, description=description, section=RIGHTS)
        for name, (variable, title, description) in flags.items()
    }
