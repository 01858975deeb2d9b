"""A database as psql's users name it, with what libpq takes from its environment and its files.

Core connects by keywords alone, whatever the environment says. So what the environment and a service file say is
looked up here, by libpq itself. Files with passwords are read by libpq when it connects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.connection import ConnectionParameters, parameters
from airflow_pg_s3.core.reporting import Log

_OF_SERVICES = {"service": "PGSERVICE", "servicefile": "PGSERVICEFILE"}
_NO_SERVICE = re.compile(r"definition of service|service file")


def postgres_parameters(given: str, log: Log) -> tuple[ConnectionParameters, bool]:
    """Find out where a database is.

    :param given: a URI, keywords and values, or the name of a database, as libpq's ``dbname`` may be any of them.
    :returns: also whether `given` names the database, rather than the environment, a service or the user's name.
    :raises InputError: it cannot be read, or names a service that there is not.
    """
    own = _keywords(given)
    if own.get("password"):
        log.warning(
            "the password in the arguments can be read by everybody on this machine (ps): leave it out, and put "
            "it into PGPASSWORD, ~/.pgpass or a service file"
        )
    services = {variable: own.pop(keyword) for keyword, variable in _OF_SERVICES.items() if keyword in own}
    found = _from_environment(services)
    if "password" in own:
        found.pop("passfile", None)
    return parameters(database=None, keywords={**found, **own}), bool(own.get("dbname"))


def _keywords(given: str) -> dict[str, str]:
    if "=" not in given and not given.startswith(("postgresql://", "postgres://")):
        return {"dbname": given}
    try:
        return {keyword: str(value) for keyword, value in conninfo_to_dict(given).items()}
    except psycopg.ProgrammingError:
        # What psycopg says quotes it, password and all.
        raise InputError(
            "the PostgreSQL argument is neither a URI such as postgresql://user@host/database, nor keywords such "
            "as 'host=db dbname=orders', as libpq reads them; special characters in a URI are percent-encoded"
        ) from None


def _from_environment(services: Mapping[str, str]) -> dict[str, str]:
    """What libpq's variables and the service say, but for what it would do by itself."""
    with _variables(services):
        if os.environ.get("PGSERVICE"):
            _check_service()
        return {
            option.keyword.decode(): option.val.decode()
            for option in pq.Conninfo.get_defaults()
            if option.val is not None and option.val != option.compiled
            and option.keyword.decode() not in _OF_SERVICES
        }  # fmt: skip


def _check_service() -> None:
    # The defaults leave a service out that there is not. Whoever begins to connect is told.
    connection = pq.PGconn.connect_start(b"host=/dev/null")
    said = connection.error_message.decode(errors="replace").strip()
    connection.finish()
    if _NO_SERVICE.search(said):
        raise InputError(f"{said}: correct its name, or add it to ~/.pg_service.conf or the file in PGSERVICEFILE")


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
