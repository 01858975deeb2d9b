"""From Airflow's connections to what the core needs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    BaseHook,
    conf,
    mask_secret,
)  # fmt: skip
from airflow.providers.postgres.hooks.postgres import PostgresHook
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoRegionError
from botocore.exceptions import ConnectionError as AwsConnectionError

from airflow_pg_s3.core.errors import InputError, StorageError
from airflow_pg_s3.core.postgres.connection import ConnectionParameters, parameters
from airflow_pg_s3.core.repository.codec import identities_in
from airflow_pg_s3.core.s3 import extra_args

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection
    from mypy_boto3_s3 import S3Client

# Extras that are psycopg's, and say nothing of where and how to connect.
_OF_PSYCOPG = {"autocommit", "prepare_threshold"}
# AWS takes a token for 15 minutes. pg_restore logs in once more some time after its first login.
_TOKEN_SECONDS = 300.0
_log = logging.getLogger(__name__)


def postgres_parameters(conn_id: str, database: str | None) -> ConnectionParameters:
    """Take libpq parameters from an Airflow connection, as `PostgresHook.get_conn` does: extras win over fields.

    :param conn_id: id of a Postgres connection; with the extra ``iam``, a token is fetched, and later another one
        when it is about to expire.
    :param database: overrides the connection's own.
    :raises InputError: there is no such connection, or it cannot be used.
    """
    hook = PostgresHook(postgres_conn_id=conn_id)
    try:
        connection = hook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise _no_such(conn_id) from error
    if connection.conn_type not in ("postgres", "postgresql"):
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
    """Name the database of an Airflow connection; for templates, as a macro.

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
    # First in the log, too: Airflow puts the frames of the template's rendering before the exception.
    _log.error("%s", problem)
    raise AirflowFailException(problem)


class _Token:
    """The password of a connection with the extra ``iam``: good for logins within ten minutes."""

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
    conn_id: str | None, s3_extra_args: Mapping[str, Any] | None = None
) -> tuple[S3Client, dict[str, Any]]:
    """Make a boto3 client from an Airflow connection, whose requests carry what access takes, such as SSE-C's key.

    :param s3_extra_args: an operator's extra arguments; they go before the connection's own, which are in its
        extra as ``{"service_config": {"s3": {"extra_args": {…}}}}``.
    :returns: the client, and the extra arguments for what is stored.
    :raises InputError: there is no such connection, it cannot be used, or the arguments make no sense.
    :raises StorageError: the connection's role cannot be assumed.
    """
    # The hook itself only warns, and takes whatever credentials the machine has: a backup to a wrong account.
    if conn_id:
        try:
            BaseHook.get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise InputError(
                f"the Airflow connection {conn_id!r} does not exist: create it, or give aws_conn_id=None to use "
                "the machine's own AWS credentials"
            ) from error
    hook = S3Hook(aws_conn_id=conn_id or None)
    try:
        client = hook.get_conn()
        own_arguments = dict(hook.service_config.get("extra_args", {}))
    except NoRegionError as error:
        raise InputError(
            f'the AWS connection {conn_id!r} names no region: put {{"region_name": "…"}} into its extra'
        ) from error
    except (ClientError, AwsConnectionError, HTTPClientError) as error:
        raise StorageError(f"the role of the AWS connection {conn_id!r} cannot be assumed: {error}") from error
    except (BotoCoreError, AirflowException, TypeError, ValueError) as error:
        raise InputError(f"the AWS connection {conn_id!r} cannot be used: {error}") from error
    given = own_arguments | dict(s3_extra_args or {})
    arguments = extra_args.checked(client, given)
    for key in (given.get("SSECustomerKey"), arguments.get("SSECustomerKey")):
        if isinstance(key, str):
            mask_secret(key)
    extra_args.apply_to_all(client, arguments)
    return client, arguments


def age_identities(conn_id: str | None) -> list[str]:
    """Take age identities from the password of an Airflow connection, one a line.

    :raises InputError: there is no such connection, or it holds none.
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


def client_path() -> list[str]:
    """Return the folders of the option ``[pg_s3] client_path``."""
    return [folder for folder in (conf.get("pg_s3", "client_path", fallback="") or "").split(":") if folder]


def producer(context: Mapping[str, Any]) -> dict[str, Any]:
    """Say which task makes a backup, for its manifest; nothing outside a DAG run."""
    ti = context.get("ti")
    if ti is None:
        return {}
    names = ("dag_id", "task_id", "run_id", "map_index", "try_number")
    return {name: getattr(ti, name, None) for name in names}
