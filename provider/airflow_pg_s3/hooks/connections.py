"""The translation of Airflow connections into connection parameters and S3 clients for the core."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    BaseHook,
    conf,
    get_current_context,
    mask_secret,
)  # fmt: skip
from airflow.providers.postgres.hooks.postgres import PostgresHook
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoRegionError
from botocore.exceptions import ConnectionError as AwsConnectionError

from airflow_pg_s3.core.errors import InputError, StorageError
from airflow_pg_s3.core.postgres.connection import ConnectionParameters, parameters
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.codec import identities_in
from airflow_pg_s3.core.s3 import extra_args
from airflow_pg_s3.core.s3.errors import unusable
from airflow_pg_s3.task_errors import logged

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection
    from botocore.config import Config
    from mypy_boto3_s3 import S3Client

_POSTGRES = ("postgres", "postgresql")  # types of connections
# Extras for psycopg that have nothing to do with where and how to connect.
_OF_PSYCOPG = {"autocommit", "prepare_threshold"}
# A new token is fetched after five minutes. AWS accepts one for 15, and pg_restore logs in again some time after
# its first login.
_TOKEN_SECONDS = 300.0
_log = logging.getLogger(__name__)


def postgres_parameters(conn_id: str, database: str | None) -> ConnectionParameters:
    """Return the libpq parameters of an Airflow connection, like `PostgresHook.get_conn`: extras override fields.

    :param conn_id: id of a Postgres connection; with the extra ``iam``, tokens are used as passwords, and renewed
        before they expire.
    :param database: database to use instead of the connection's; None for the connection's.
    :raises InputError: there is no such connection, or it cannot be used.
    """
    if not conn_id:
        raise InputError("no server is named: give the id of its Airflow connection, of type postgres")
    hook = PostgresHook(postgres_conn_id=conn_id)
    try:
        connection = hook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise _no_such(conn_id) from error
    if connection.conn_type not in _POSTGRES:
        raise InputError(f"the Airflow connection {conn_id!r} is of type {connection.conn_type!r}, not postgres")
    extra = connection.extra_dejson
    keywords: dict[str, object] = {
        "host": connection.host,
        "port": connection.port,
        "user": connection.login,
        "password": connection.password,
        "dbname": connection.schema,
    }
    token = _Token(hook, connection) if extra.get("iam") else None
    if token is not None:
        keywords |= {"port": token.port, "user": token.login, "password": None}
    ignored = hook.ignored_extra_options | _OF_PSYCOPG
    keywords |= {k: v for k, v in extra.items() if k not in ignored}
    if keywords["password"]:
        mask_secret(str(keywords["password"]))
    return parameters(database=database, keywords=keywords, password=None if "password" in extra else token)


def database_of(conn_id: str) -> str:
    """Return the database name of an Airflow connection; can be used as a macro in templates.

    :raises AirflowFailException: there is no such connection, or it names no database.
    """
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        problem = str(_no_such(conn_id))
    else:
        name = connection.extra_dejson.get("dbname", connection.schema)
        if name:
            return str(name)
        problem = (
            f"the Airflow connection {conn_id!r} names no database: set its schema field, or name the database"
        )
    raise logged(AirflowFailException(problem), _log)


class _Token:
    """The password of a connection with the extra ``iam``: returns a token that is valid for ten more minutes."""

    def __init__(self, hook: PostgresHook, connection: Connection) -> None:
        self._hook = hook
        self._connection = connection
        self._lock = threading.Lock()
        self._fetch()

    def __call__(self) -> str:
        with self._lock:
            if time.monotonic() - self._fetched > _TOKEN_SECONDS:
                self._fetch()
            return self._text

    def _fetch(self) -> None:
        now = time.monotonic()
        self.login, self._text, self.port = self._hook.get_iam_token(self._connection)
        mask_secret(self._text)
        self._fetched = now


def s3_client(
    conn_id: str | None, s3_extra_args: Mapping[str, Any] | None = None, config: Config | None = None
) -> tuple[S3Client, dict[str, Any]]:
    """Create a boto3 client from an Airflow connection; its requests have extra arguments, such as SSE-C's key.

    :param s3_extra_args: an operator's extra arguments; they override the connection's own, which are in its extra
        as ``{"service_config": {"s3": {"extra_args": {…}}}}``.
    :param config: settings of botocore that override the connection's own.
    :returns: the client, and the extra arguments for requests that store objects.
    :raises InputError: there is no such connection, it cannot be used, or the arguments are invalid.
    :raises StorageError: the connection's role cannot be assumed.
    """
    # The hook would only warn, and use the machine's credentials, so that a backup goes to a wrong account.
    if conn_id:
        try:
            conn_type = BaseHook.get_connection(conn_id).conn_type
        except AirflowNotFoundException as error:
            raise InputError(
                f"the Airflow connection {conn_id!r} does not exist: create it, or give aws_conn_id=None to use "
                "the machine's own AWS credentials"
            ) from error
        if conn_type in _POSTGRES:  # others, such as the older "s3", are as good as "aws"
            raise InputError(f"the Airflow connection {conn_id!r} is of type {conn_type!r}, not aws")
    hook = S3Hook(aws_conn_id=conn_id or None)
    try:
        client = hook.get_conn() if config is None else hook.get_client_type(config=hook.config.merge(config))
        own_arguments = dict(hook.service_config.get("extra_args", {}))
    except NoRegionError as error:
        raise InputError(
            f'the AWS connection {conn_id!r} names no region: put {{"region_name": "…"}} into its extra'
        ) from error
    except (ClientError, AwsConnectionError, HTTPClientError) as error:
        raise StorageError(f"the role of the AWS connection {conn_id!r} cannot be assumed: {error}") from error
    except (BotoCoreError, AirflowException, TypeError, ValueError) as error:
        raise InputError(f"the AWS connection {conn_id!r} cannot be used: {unusable(error)}") from error
    given = own_arguments | dict(s3_extra_args or {})
    arguments = extra_args.checked(client, given)
    for key in (given.get("SSECustomerKey"), arguments.get("SSECustomerKey")):
        if isinstance(key, str):
            mask_secret(key)
    extra_args.apply_to_all(client, arguments)
    return client, arguments


def age_identities(conn_id: str | None) -> list[str]:
    """Return the age identities in the password of an Airflow connection, one per line.

    :raises InputError: there is no such connection, or it holds no identity.
    """
    if not conn_id:
        return []
    try:
        text = BaseHook.get_connection(conn_id).password or ""
    except AirflowNotFoundException as error:
        raise _no_such(conn_id) from error
    identities = identities_in(text)
    if not identities:
        raise InputError(f"the Airflow connection {conn_id!r} holds no age identity in its password")
    for identity in identities:
        mask_secret(identity)
    return identities


def _no_such(conn_id: str) -> InputError:
    return InputError(f"the Airflow connection {conn_id!r} does not exist: create it, or correct the id")


def client_path(log: Log | None = None) -> list[str]:
    """Return the folders of the option ``[pg_s3] client_path``.

    :param log: gets a warning of those that are not on this machine: others with the same option may have them.
    """
    folders = [folder for folder in (conf.get("pg_s3", "client_path", fallback="") or "").split(":") if folder]
    if log is not None and (lacking := [folder for folder in folders if not Path(folder).is_dir()]):
        log.warning("this machine lacks %s, named in the option [pg_s3] client_path", ", ".join(lacking))
    return folders


def producer() -> dict[str, Any]:
    """Return the task that makes a backup or verification, for its record; an empty dict outside a DAG run."""
    try:
        ti = get_current_context()["ti"]
    except RuntimeError:
        return {}
    names = ("dag_id", "task_id", "run_id", "map_index", "try_number")
    return {name: getattr(ti, name, None) for name in names}
