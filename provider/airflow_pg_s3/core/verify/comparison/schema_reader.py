"""Reads the definitions in an archive by pg_restore, and those of the restored database by pg_dump."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.postgres.archive.schema_script import SchemaText, parse
from airflow_pg_s3.core.postgres.client_program import running
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.postgres.connection import ConnectionParameters, add_options
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder

_POLL_SECONDS = 0.01
# pg_dump's options that change the wording or leave whole kinds out, with the first major that has them.
_ABOUT_WORDING = {
    "--disable-dollar-quoting": 13,
    "--no-acl": 13,
    "--no-comments": 13,
    "--no-policies": 18,
    "--no-privileges": 13,
    "--no-publications": 13,
    "--no-security-labels": 13,
    "--no-subscriptions": 13,
    "--no-toast-compression": 14,
    "--quote-all-identifiers": 13,
}
# Settings whose session default is already the wanted value. Only the others are sent as options, as a pooler
# refuses these.
_SETTINGS = (
    "select name from pg_settings where (name, reset_val) in (select * from unnest(%s::text[], %s::text[]))"
)


class SchemaReader:
    """Definitions as text, of an archive and of a database.

    :param env: environment of the programs, with what they need to connect.
    :param with_roles: whether to include owners, privileges and tablespaces.
    :param cancel: set from any thread to stop the comparison.
    """

    def __init__(
        self,
        archive: ArchiveFolder,
        target: ConnectionParameters,
        *,
        tools: ClientTools,
        env: Mapping[str, str],
        with_roles: bool,
        cancel: threading.Event,
    ) -> None:
        self._archive = archive
        self._target = target
        self._env = env
        self._tools = tools
        self._roles = [] if with_roles else ["--no-owner", "--no-privileges", "--no-tablespaces"]
        self._cancel = cancel

    def archive_schema(self) -> SchemaText:
        """Return the archive's definitions."""
        return self._run("pg_restore", ["--schema-only", *self._roles, str(self._archive.folder)])

    def database_schema(self, expected: SchemaText, connection: psycopg.Connection[tuple[Any, ...]]) -> SchemaText:
        """Return the restored database's definitions, worded like the archive's as far as pg_dump's options allow.

        :param connection: a connection to that database.
        """
        manifest = self._archive.manifest
        arguments = [
            "--schema-only",
            "--no-password",
            f"--encoding={manifest.server.encoding}",
            f"--dbname={self._target.dbname_argument()}",
            *self._roles,
            *about_words(manifest.dump.options, self._tools.major),
        ]
        settings = {
            "quote_all_identifiers": "off",
            "bytea_output": "hex",
            "standard_conforming_strings": "on" if expected.standard_conforming_strings else "off",
        }
        rows = connection.execute(_SETTINGS, [list(settings), list(settings.values())]).fetchall()
        as_wanted = {name for (name,) in rows}
        env = dict(self._env)
        options = " ".join(f"-c {name}={value}" for name, value in settings.items() if name not in as_wanted)
        add_options(env, options)
        self._target.renew_password(env)
        return self._run("pg_dump", arguments, env)

    def are_of_one_major(self, connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
        """True if the servers, and the programs that write both definitions, are of one major version."""
        manifest = self._archive.manifest
        servers = (manifest.server.version_num // 10000, connection.info.server_version // 10000)
        programs = (re.split(r"\D", manifest.dump.pg_dump_version)[0], str(self._tools.major))
        return len(set(servers)) == len(set(programs)) == 1

    def _run(self, program: str, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> SchemaText:
        workspace = self._archive.workspace
        file = workspace.folder / f"{program}.sql"
        argv = [self._tools.path(program), f"--file={file}", *arguments]
        with running(argv, env={**(env or client_versions.environment()), **workspace.environment}) as process:
            while process.poll() is None:
                if self._cancel.wait(_POLL_SECONDS):
                    raise Cancelled("the comparison was stopped")
            process.check()
        script = file.read_bytes().decode(self._archive.manifest.server.codec, errors="surrogateescape")
        file.unlink()
        return parse(script)


def about_words(options: Sequence[str], major: int) -> list[str]:
    """Choose pg_dump's options for a second dump, so that it is worded like the first.

    :param options: the first dump's options. It has accepted them, so that an abbreviation is unambiguous.
    :param major: major version of the second pg_dump.
    """
    chosen = {"--no-privileges"} if {"-x", "-xO", "-Ox"} & set(options) else set()
    for word in options:
        if len(word) > 2 and word.startswith("--"):
            chosen |= {name for name, first in _ABOUT_WORDING.items() if name.startswith(word) and first <= major}
    return sorted(chosen)
