"""The comparison of what an archive needs with what the target has, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import psycopg
from psycopg import sql

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.archive.requirements import GRANTEE, NAMED, OWNER, Requirements
from airflow_pg_s3.core.postgres.server import Server
from airflow_pg_s3.core.reporting import some_of
from airflow_pg_s3.core.restore import extensions
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.globals import applied
from airflow_pg_s3.core.restore.managed_service import TOLERATED
from airflow_pg_s3.core.restore.opened_archive import OpenedArchive
from airflow_pg_s3.core.restore.request import RestoreRequest
from airflow_pg_s3.core.restore.target import Target

_Connection = psycopg.Connection[tuple[Any, ...]]
_ENCODING = "select pg_encoding_to_char(encoding) from pg_database where datname = current_database()"
# In a database in SQL_ASCII, names need not be UTF-8.
_BYTES = "convert_to({}, case getdatabaseencoding() when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end)"
_SHOWN = 20


def prepare(target: Target, needs: Requirements, archive: OpenedArchive, context: RestoreContext) -> None:
    """Compare, create roles and tablespaces if asked to, then the database if it is missing.

    :raises InputError: something is missing, or the server would not create an extension; nothing was restored.
    """
    request, source = context.request, archive.server
    with ExitStack() as stack:
        warnings: list[str] = []
        if archive.globals_script is not None:
            # The comparison runs in the transaction of the globals: roles created there count, and are rolled
            # back if something else is missing.
            warnings += stack.enter_context(applied(target.connection, archive.globals_script))
        warnings += compare(
            needs,
            target.connection,
            is_target=target.exists,
            like=None if target.exists else source,
            versions={extension.name: extension.version for extension in source.extensions} if source else {},
            has_globals=archive.has_globals and archive.globals_script is None,
        )
        if target.exists:
            # In the same transaction, as extensions and pre_restore_sql may name roles created there.
            _try_extensions(target.connection, needs, request)
    for warning in warnings:
        context.warn(warning)
    target.prepare(source)
    if not target.exists:
        # The new database is dropped again if an extension cannot be created.
        with target.params.connect() as connection:
            _try_extensions(connection, needs, request)


def _try_extensions(connection: _Connection, needs: Requirements, request: RestoreRequest) -> None:
    extensions.try_to_create(
        connection,
        needs,
        pre_restore_sql=request.pre_restore_sql,
        left_out_with=TOLERATED["EXTENSION"] if request.managed_service else (),
    )


def compare(
    needs: Requirements,
    connection: _Connection,
    *,
    is_target: bool,
    like: Server | None,
    versions: Mapping[str, str],
    has_globals: bool,
) -> list[str]:
    """Check that the target has what an archive needs.

    :param is_target: whether `connection` leads to the target database; if that is yet to be created, it leads to
        another database of the same server.
    :param like: the source server, if the database is to be created with its encoding and locale.
    :param versions: versions of the source's extensions by name, as far as they are known.
    :param has_globals: whether the backup holds roles that ``restore_globals`` would create.
    :returns: a sentence for each thing that is there but differs from the source.
    :raises InputError: something is missing; the message names all of it, and what to do.
    """
    warnings: list[str] = []
    problems = [
        *_missing_roles(needs, connection, has_globals),
        *_roles_out_of_reach(needs, connection),
        *_missing_extensions(needs, connection, is_target, versions, warnings),
        *_missing_tablespaces(needs, connection),
        *_missing_locale(connection, like),
        *_missing_collations(needs, connection, like),
    ]
    if problems:
        raise InputError("the target lacks what this restore needs: " + "; ".join(problems))
    return warnings


def _missing_roles(needs: Requirements, connection: _Connection, has_globals: bool) -> Iterator[str]:
    missing = needs.roles.keys() - _names(connection, "rolname", "pg_roles")
    if not missing:
        return
    purposes = set().union(*(needs.roles[role] for role in missing))
    ways = ["create them"]
    if has_globals:
        ways.append("give restore_globals=True, as the backup holds them")
    if NAMED not in purposes:
        arguments = {OWNER: "no_owner=True", GRANTEE: "no_privileges=True"}
        ways.append("give " + " and ".join(arguments[p] for p in arguments if p in purposes))
    yield f"roles of {_and(purposes)}: {_shown(missing)} ({', or '.join(ways)})"


def _roles_out_of_reach(needs: Requirements, connection: _Connection) -> Iterator[str]:
    """Yield a problem if a user who is not a superuser cannot make some roles owners."""
    privilege = "SET" if connection.info.server_version >= 160000 else "MEMBER"
    usable = _names(connection, "rolname", f"pg_roles where pg_has_role(oid, '{privilege}')")
    there = _names(connection, "rolname", "pg_roles")
    # Membership in predefined roles such as pg_database_owner depends on the database.
    out_of_reach = {role for role in (needs.roles_to_become & there) - usable if not role.startswith("pg_")}
    if out_of_reach:
        user = connection.info.user
        yield (
            f"membership: {user} is no superuser and may not give objects to {_shown(out_of_reach)} (grant these "
            f"roles to {user}, or give no_owner=True)"
        )


def _missing_extensions(
    needs: Requirements, connection: _Connection, is_target: bool, versions: Mapping[str, str], warnings: list[str]
) -> Iterator[str]:
    # CREATE EXTENSION installs the default version.
    found: dict[str, str] = dict(
        connection.execute("select name::text, default_version from pg_available_extensions").fetchall()
    )
    if is_target:
        found |= dict(connection.execute("select extname::text, extversion from pg_extension").fetchall())
    missing = {name for name in needs.extensions if name not in found}
    if missing:
        named = {f"{name} {versions[name]}" if name in versions else name for name in missing}
        yield f"extensions: {_shown(named)} (install their packages on the server)"
    for name in sorted(needs.extensions - missing):
        if name in versions and versions[name] != found[name]:
            warnings.append(
                f"extension {name}: the source had version {versions[name]}, the target has {found[name]}"
            )


def _missing_tablespaces(needs: Requirements, connection: _Connection) -> Iterator[str]:
    missing = needs.tablespaces - _names(connection, "spcname", "pg_tablespace")
    if missing:
        yield (
            f'tablespaces: {_shown(missing)} (create them, or give pg_restore_options=["--no-tablespaces"], which '
            "puts everything into the database's own)"
        )


def _missing_locale(connection: _Connection, like: Server | None) -> Iterator[str]:
    if like is None:
        return
    options = {"provider": like.locale_provider, "locale": like.locale}
    if like.locale_provider == "icu" and like.icu_rules:
        options["rules"] = like.icu_rules
    if like.locale_provider != "libc" and (reason := _refusal(connection, like, options)):
        yield f"the locale {like.locale!r} of {like.locale_provider} ({reason})"
    for locale in sorted({like.collate, like.ctype}):
        if reason := _refusal(connection, like, {"provider": "libc", "locale": locale}):
            yield f"the locale {locale!r} of the operating system ({reason}; install it on the server)"


def _missing_collations(needs: Requirements, connection: _Connection, like: Server | None) -> Iterator[str]:
    encoding = like.encoding if like else _value(connection, _ENCODING)
    there = _names(
        connection,
        "collname",
        "pg_collation where collnamespace = 'pg_catalog'::regnamespace"
        " and collencoding in (-1, pg_char_to_encoding(%s))",
        encoding,
    )
    missing = needs.collations - there
    if missing:
        yield (
            f"collations: {_shown(missing)} (install these locales on the server, then run "
            "SELECT pg_import_system_collations('pg_catalog') in the target database)"
        )
    for name, options in sorted(needs.new_collations.items()):
        if reason := _refusal(connection, like, options):
            yield f"what the collation {name} is made of ({reason})"


def _refusal(connection: _Connection, like: Server | None, options: Mapping[str, str | None] | str) -> str | None:
    """Return the server's reason for not creating a collation; None if it would, or cannot be asked."""
    if like is not None and like.encoding != _value(connection, _ENCODING):
        # This trial would use another encoding than the new database; CREATE DATABASE will check instead.
        return None
    if not isinstance(options, str):
        listed = ", ".join(f"{key} = {sql.quote(value)}" for key, value in options.items() if value is not None)
        options = f"({listed})"
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(f"create collation pg_temp.airflow_pg_s3_preflight {options}".encode())
    except psycopg.errors.InsufficientPrivilege:
        return None  # the role may not try
    except psycopg.Error as error:
        if connection.closed:
            raise
        return str(error).splitlines()[0]
    return None


def _names(connection: _Connection, column: str, table: str, *values: str) -> set[str]:
    rows = connection.execute(f"select {_BYTES.format(column)} from {table}".encode(), values or None).fetchall()
    return {name.decode(errors="surrogateescape") for (name,) in rows}


def _shown(names: set[str]) -> str:
    # Names may hold line breaks, and the message is one line.
    texts = [
        " ".join(name.encode(errors="surrogateescape").decode(errors="replace").split()) for name in sorted(names)
    ]
    return some_of(texts, _SHOWN)


def _and(purposes: set[str]) -> str:
    return " and ".join(purpose for purpose in (OWNER, GRANTEE, NAMED) if purpose in purposes)


def _value(connection: _Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return None if row is None else row[0]
