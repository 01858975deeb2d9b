"""Connection parameters, and how they are passed to `pg_dump`, `pg_restore` and psycopg without exposing secrets.

No secret is in argv or in the environment of a child process, as both can be read from /proc. The password goes
into a password file, other secrets into a connection service file, both of mode 0600.

Source of the rules: https://www.postgresql.org/docs/current/libpq-connect.html, libpq-pgpass.html and
libpq-pgservice.html.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from airflow_pg_s3.core.errors import InputError, ServerError
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.postgres.errors import Unreachable
from airflow_pg_s3.core.postgres.login_refusals import refusal, unreachable
from airflow_pg_s3.core.postgres.pooler import refuse_transaction_pooler

_SERVICE = "airflow_pg_s3"
_SERVICE_FILE = "pg_service.conf"
_SERVICE_VALUE_BYTES = 950  # libpq takes lines of up to 1,023 bytes
_SYSTEM_SINCE = 160000
# Not passed on to client programs: what a dump contains must not depend on the connection.
_NOT_PASSED_ON = {"client_encoding", "replication", "dbname"}
_FLAGS = {"keepalives", "sslcompression", "sslsni", "gssdelegation"}
# Our connections idle while programs work, and a program's while its other workers do. Keepalives keep firewalls
# from dropping them.
_KEEPALIVES = {"keepalives_idle": "60"}
_OUR_CONNECTIONS = {"application_name": "airflow-provider-pg-s3", "connect_timeout": "30"} | _KEEPALIVES
_FOR_A_GOOD_DUMP = {"PGTZ": "UTC"}
# Limits that a role or database sets for applications, each with the first version that has it.
_LIMITS = {
    "statement_timeout": 0,
    "lock_timeout": 0,
    "idle_in_transaction_session_timeout": 0,
    "idle_session_timeout": 140000,
    "transaction_timeout": 170000,
}
_IDLE_TIMEOUT_IS_SET = "select 1 from pg_settings where name = 'idle_session_timeout' and reset_val <> '0'"
_MAY_IDLE = "-c idle_session_timeout=0"
# Settings by which values are read and that pg_restore does not set itself.
_FOR_VALUES = {"array_nulls": "on", "intervalstyle": "postgres"}
_ARRAY_NULLS_ARE_OFF = "select 1 from pg_settings where name = 'array_nulls' and reset_val <> 'on'"
_AS_IN_C = "-c lc_monetary=C"
_WRITES_MONEY_AS_C = "select (-1234567.89)::numeric::money::text = '-$1,234,567.89'"
_LANGUAGE_WAS_SET = "select 1 from pg_settings where name = 'lc_messages' and setting <> reset_val"
# A phrase that every translation of PostgreSQL translates. The name in lc_messages does not always show the
# language.
_SPOKEN = (
    "select pg_describe_object('pg_language'::regclass, oid, 0), current_setting('lc_messages') "
    "from pg_language where lanname = 'internal'"
)
_ENGLISH = "language internal"


@dataclass(frozen=True, kw_only=True)
class ConnectionParameters:
    """libpq keywords and values of one server, and the database on it.

    :param database: name of the database, of any characters.
    :param keywords: libpq keywords such as ``host`` and ``sslmode``.
    :param password: for passwords that expire: returns the password for the next login; called on any thread.
    :param address: ``host``, ``hostaddr`` and ``port`` that override those in `keywords`; see `pinned`.
    :param started_at: start time of the only server process that our sessions may reach.
    :param server_name: what messages call the server; None for user, host and port.
    """

    database: str
    keywords: Mapping[str, str] = field(repr=False)
    password: Callable[[], str] | None = field(default=None, repr=False)
    address: Mapping[str, str] = field(default_factory=dict)
    started_at: datetime | None = None
    server_name: str | None = None

    @property
    def host(self) -> str:
        """The host as given, or what libpq uses by default."""
        return self.keywords.get("host") or self.keywords.get("hostaddr") or "local socket"

    @property
    def endpoint(self) -> str:
        """``user@host:port/database``, for messages."""
        if self.server_name is not None:
            return f"{self.server_name}, {self.database}"
        user = self.keywords.get("user", "")
        port = self.keywords.get("port") or "5432"
        return f"{user}@{self.host}:{port}/{self.database}"

    def application_name(self, program: str) -> str:
        """Return the ``application_name`` of a client program's sessions: the connection's, or else its own."""
        return self.keywords.get("application_name", program)

    def of(self, database: str) -> ConnectionParameters:
        """Return the parameters of another database on the same server."""
        return replace(self, database=database)

    def pinned(self, connection: psycopg.Connection[tuple[Any, ...]]) -> ConnectionParameters:
        """Return parameters for further connections to the server that a first connection has reached.

        A host name may have several addresses, and an address several servers behind it. Each server has its own
        snapshots, locks and databases.

        :param connection: a connection made with these parameters, to any database.
        """
        info = connection.info
        # hostaddr is empty for a socket, and then overrides a keyword that is not meant for it.
        address = {"host": info.host, "hostaddr": info.hostaddr, "port": str(info.port)}
        return replace(self, address=address, started_at=_started_at(connection))

    def another_server(self) -> ServerError:
        """Return the error for an endpoint with more than one server behind it."""
        return ServerError(
            f"{self.endpoint} leads to more than one server, or the server was restarted meanwhile: name one of "
            "them in the connection, rather than a load balancer"
        )

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect in autocommit mode, with the server's messages in English.

        :raises InputError: the server refuses the login, or is behind a transaction pooler.
        :raises ServerError: the server is not the one that these parameters are pinned to.
        :raises Unreachable: the server cannot be reached; a retry may help.
        :raises psycopg.OperationalError: the session was lost at once.
        """
        connection = self._log_in()
        try:
            refuse_transaction_pooler(connection, self.endpoint, self._log_in)
            self.set_up(connection)
            if self.started_at not in (None, _started_at(connection)):
                raise self.another_server()
        except BaseException:
            connection.close()
            raise
        return connection

    def set_up(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Give a session the settings that `connect` gives a new one; raises as `connect`."""
        # These override the settings of database and role. They are not sent as options, which poolers refuse.
        # Timeouts are lifted as sessions with locks idle while programs work.
        connection.execute(without_limits(connection.info.server_version))
        connection.execute("set datestyle = 'ISO, YMD'; set timezone = 'UTC'; set search_path = ''")
        self._speak_english(connection)

    def _log_in(self) -> psycopg.Connection[tuple[Any, ...]]:
        keywords = self._with_password().keywords
        with _without_pg_variables():
            try:
                return psycopg.connect(
                    make_conninfo(
                        **_OUR_CONNECTIONS
                        | {k: v for k, v in keywords.items() if k not in _NOT_PASSED_ON}
                        | {**self.address, "dbname": self.database},
                    ),
                    autocommit=True,
                    client_encoding="UTF8",
                )
            except psycopg.ProgrammingError as error:
                raise InputError(f"the connection to {self.endpoint} is not valid: {error}") from error
            except psycopg.OperationalError as error:
                refused = refusal(str(error))
                if refused is not None:
                    raise InputError(f"cannot connect to {self.endpoint}: {refused}") from error
                names_host = bool(keywords.get("host") or keywords.get("hostaddr"))
                why = unreachable(str(error), names_host=names_host)
                raise Unreachable(f"cannot connect to {self.endpoint}: {why}") from error

    def _speak_english(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        # Messages are parsed, to hide rows in logs and to tell damage from a full disk.
        spoken, locale = connection.execute(_SPOKEN).fetchone() or (_ENGLISH, "")
        if spoken == _ENGLISH:
            return
        try:
            connection.execute("set lc_messages = 'C'")
        except psycopg.errors.InsufficientPrivilege as error:
            role = sql.Identifier(connection.info.user).as_string()
            connection.close()
            raise InputError(
                f"the server's messages to {self.endpoint} are in {locale}, where rows that errors quote cannot "
                f"be recognised and kept out of logs; as a superuser, ALTER ROLE {role} SET lc_messages = 'C'"
            ) from error

    def dbname_argument(self) -> str:
        """Return the value for ``--dbname``: the database, whatever its name, and the pinned address."""
        # Keywords given here override the environment and a service file.
        return make_conninfo(**{**self.address, "dbname": self.database})

    def environment(self, private_folder: Path, *, lc_monetary: Literal["C"] | None = None) -> dict[str, str]:
        """Write the secrets into `private_folder` and return the environment for a client program.

        Connects, to find out which settings the program's sessions need: messages in English, values as in a dump.

        :param private_folder: a folder of mode 0700 that is removed afterwards.
        :param lc_monetary: the locale in which the program reads or writes money values; None for the server's.
        :raises InputError: libpq's files cannot hold a value, a pooler prevents the choice of `lc_monetary`, or as
            in `connect`.
        :raises psycopg.OperationalError: the server cannot be reached.
        """
        known = self._with_password()
        # The user's own service file decides about keepalives itself.
        kept = {} if "service" in known.keywords else _KEEPALIVES
        env = replace(known, keywords={**kept, **known.keywords}).written_environment(private_folder)
        with known.connect() as connection:
            # Options are given only if needed: poolers refuse them, and a server refuses those that a user may not
            # set.
            if connection.execute(_LANGUAGE_WAS_SET).fetchone():
                add_options(env, "-c lc_messages=C")
            if connection.execute(_ARRAY_NULLS_ARE_OFF).fetchone():
                add_options(env, "-c array_nulls=on")
            is_as_wanted = lc_monetary is None or connection.execute(_WRITES_MONEY_AS_C).fetchone() == (True,)
            may_not_idle = connection.execute(_IDLE_TIMEOUT_IS_SET).fetchone() is not None
        # pg_restore's workers idle until there is work for them. A pooler that refuses options may have no such
        # timeout.
        if not is_as_wanted:
            if not known._takes_options(_AS_IN_C):
                raise InputError(
                    f"{self.endpoint} writes money in a locale of its own, and the pooler in front of the server "
                    "does not pass on the option that changes it: connect to the server itself"
                )
            add_options(env, _AS_IN_C)
        if may_not_idle and known._takes_options(_MAY_IDLE):
            add_options(env, _MAY_IDLE)
        return env

    def _takes_options(self, options: str) -> bool:
        given = self.keywords.get("options", "")
        try:
            with replace(
                self, keywords={**self.keywords, "options": f"{given} {options}"}
            ).connect() as connection:
                # Some poolers are configured to ignore options.
                name, _, value = options.removeprefix("-c ").partition("=")
                query = "select from pg_settings where name = %s and reset_val = %s"
                return connection.execute(query, [name, value]).fetchone() is not None
        except (InputError, psycopg.OperationalError):
            return False

    def written_environment(self, private_folder: Path) -> dict[str, str]:
        """Write the secrets and return the environment, as `environment` does, but without connecting.

        :raises InputError: libpq's files cannot hold a value.
        """
        env = client_versions.environment() | _FOR_A_GOOD_DUMP
        service: dict[str, str] = {}
        keywords = self._with_password().keywords
        for keyword, value in keywords.items():
            if keyword in _NOT_PASSED_ON or (keyword == "passfile" and "password" in keywords):
                continue
            option = _OPTIONS.get(keyword)
            if option is None:
                raise InputError(f"the connection to {self.endpoint} has {keyword!r}, which is no libpq keyword")
            if keyword == "password":
                env["PGPASSFILE"] = str(_write_passfile(private_folder, value))
            elif option.envvar and not option.is_secret:
                env[option.envvar] = value
            else:
                service[keyword] = value
        if service:
            if "PGSERVICE" in env:
                raise InputError(
                    f"the connection has both 'service' and {sorted(service)}: write these into the service file"
                )
            env |= _service(private_folder, service)
        return env

    def renew_password(self, environment: Mapping[str, str]) -> None:
        """Update the password file before a client program starts, if the password expires.

        :param environment: an environment returned by `environment`.
        """
        if self.password is not None:
            _write_passfile(Path(environment["PGPASSFILE"]).parent, self.password())

    def _with_password(self) -> ConnectionParameters:
        """Return the parameters with the current password."""
        if self.password is None:
            return self
        return replace(self, keywords={**self.keywords, "password": self.password()}, password=None)


def _started_at(connection: psycopg.Connection[tuple[Any, ...]]) -> datetime:
    started_at: datetime
    ((started_at,),) = connection.execute("select pg_postmaster_start_time()").fetchall()
    return started_at


def settings_for_values(lc_monetary: Literal["C"] | None) -> dict[str, str]:
    """Return settings for a session that reads an archive's values, besides those that the archive itself sets.

    :param lc_monetary: the locale of money values; None for the server's own.
    """
    return _FOR_VALUES | ({} if lc_monetary is None else {"lc_monetary": lc_monetary})


def without_limits(version: int) -> bytes:
    """Return commands that lift the timeouts of sessions, transactions and statements.

    :param version: the server's ``server_version_num``.
    """
    return "; ".join(f"set {name} = 0" for name, first in _LIMITS.items() if version >= first).encode()


def add_options(environment: dict[str, str], options: str) -> None:
    """Add settings for a client program's sessions to ``PGOPTIONS``, each as ``-c name=value``."""
    environment["PGOPTIONS"] = f"{environment.get('PGOPTIONS', '')} {options}".strip()


@dataclass(frozen=True)
class _Option:
    envvar: str | None
    is_secret: bool


def _libpq_options() -> dict[str, _Option]:
    return {
        option.keyword.decode(): _Option(
            envvar=option.envvar.decode() if option.envvar else None,
            is_secret=option.dispchar == b"*",
        )
        for option in psycopg.pq.Conninfo.get_defaults()
    }


_OPTIONS = _libpq_options()


def parameters(
    *, database: str | None, keywords: Mapping[str, object], password: Callable[[], str] | None = None
) -> ConnectionParameters:
    """Normalise the parameters of a connection.

    :param database: name of the database; if empty, the keyword ``dbname``, or libpq's default, the user's name.
    :param keywords: libpq keywords with values of any scalar type; those that are None are left out. Booleans
        become 1 and 0. Empty strings are passed on: libpq ignores some and refuses others.
    :param password: see `ConnectionParameters`.
    :raises InputError: libpq does not know a keyword, or cannot take its value.
    """
    texts: dict[str, str] = {}
    for keyword, value in keywords.items():
        if value is None or (keyword == "password" and value == ""):
            continue
        if keyword not in _OPTIONS:
            raise InputError(
                f"the connection's extra {keyword!r} is no libpq keyword; remove it, or see "
                "https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS "
                f"(psycopg uses libpq {_version()} here)"
            )
        texts[keyword] = str(int(value)) if isinstance(value, bool) and keyword in _FLAGS else str(value)
        if "\0" in texts[keyword]:
            raise InputError(f"the connection's {keyword} holds a NUL character, which libpq cannot carry")
    if texts.get("sslrootcert") == "system" and psycopg.pq.version() < _SYSTEM_SINCE:
        # An older libpq takes "system" for a file name, and without that file trusts any server.
        raise InputError(
            f"the connection has sslrootcert=system, which takes libpq 16 or newer, and psycopg uses {_version()} "
            "here: install psycopg[binary], or name a file"
        )
    name = database or texts.get("dbname") or texts.get("user")
    if not name:
        raise InputError("the connection names no database: set its schema field, or the operator's database")
    if "\0" in name:
        raise InputError("a database name cannot hold a NUL character")
    return ConnectionParameters(database=name, keywords=texts, password=password)


def _version() -> str:
    return "{}.{}".format(*divmod(psycopg.pq.version(), 10000))


_ENVIRONMENT = threading.Lock()


@contextmanager
def _without_pg_variables() -> Iterator[None]:
    # libpq reads PG* variables when it connects, but only the connection may decide where to. One thread at a
    # time: one that has connected would restore the variables while another is about to connect.
    with _ENVIRONMENT:
        taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PG")}
        try:
            yield
        finally:
            os.environ.update(taken)


def _write_passfile(folder: Path, password: str) -> Path:
    if any(c in password for c in "\n\0") or password.endswith("\r"):
        raise InputError("the password holds a newline or a NUL, which libpq's password file cannot carry")
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    return _write_private(folder / "pgpass", f"*:*:*:*:{escaped}\n")


def _service(folder: Path, settings: Mapping[str, str]) -> dict[str, str]:
    return {"PGSERVICE": _SERVICE, "PGSERVICEFILE": str(_write_service_file(folder, settings))}


def _write_service_file(folder: Path, settings: Mapping[str, str]) -> Path:
    for keyword, value in settings.items():
        if value != value.strip() or "\n" in value or len(value.encode()) > _SERVICE_VALUE_BYTES:
            raise InputError(
                f"the connection's {keyword} begins or ends with white space, holds a newline or has more than "
                f"{_SERVICE_VALUE_BYTES} bytes, which libpq's service file cannot carry"
            )
    lines = [f"[{_SERVICE}]", *(f"{keyword}={value}" for keyword, value in settings.items())]
    return _write_private(folder / _SERVICE_FILE, "\n".join(lines) + "\n")


def _write_private(path: Path, text: str) -> Path:
    # The file is replaced atomically: a program that is just connecting must not read half of it.
    descriptor, written = tempfile.mkstemp(prefix=f"{path.name}-", dir=path.parent)  # of mode 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(written, path)
    return path
