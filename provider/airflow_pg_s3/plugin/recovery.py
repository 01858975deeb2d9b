"""Commands that restore one backup where there is no Airflow, with its names filled in."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from psycopg.conninfo import make_conninfo

from airflow_pg_s3.core.repository.backup_table import TableSize
from airflow_pg_s3.core.repository.manifest import Manifest

BY_HAND = Path(__file__).with_name("recovery.sh")
"""The blocks of docs/recovery.md, from "Download" to "Restore"."""

_LONGEST_NAME_BYTES = 63


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Some commands to paste into a shell.

    :param title: what they do.
    """

    title: str
    text: str


def commands(uri: str, manifest: Manifest, *, endpoint_url: str, tables: Sequence[TableSize]) -> list[Commands]:
    """Return commands that restore a backup: with ``pg-s3``, and with nothing but what every server has.

    :param uri: of its manifest.
    :param endpoint_url: where its client sends requests to.
    :param tables: of the backup, the largest first.
    """
    endpoint = None if _is_amazon(endpoint_url) else endpoint_url
    options = ["--endpoint-url", endpoint] if endpoint else []
    if manifest.encryption is not None:
        options += ["--identity", "/root/age.key"]
    recovered = make_conninfo(host="HOST", port="5432", user="USER", dbname=_recovered(manifest.database))
    found = [
        Commands(
            title="Restore with pg-s3", text=_line("pg-s3", "restore", uri, recovered, "--jobs", "4", *options)
        ),
        Commands(title="Verify with pg-s3", text=_line("pg-s3", "verify", uri, *options)),
    ]
    if tables:
        name = f"{tables[0].schema}.{tables[0].name}"
        found.append(
            Commands(
                title="One table as CSV",
                text=_line("pg-s3", "cat", uri, name, "--format", "csv", "--header", *options) + " > table.csv",
            )
        )
    return [*found, Commands(title="By hand, without this package", text=_by_hand(uri, manifest, endpoint))]


def _by_hand(uri: str, manifest: Manifest, endpoint: str | None) -> str:
    folder, _, name = uri.removesuffix(".json").rpartition("/")
    aws = shlex.join(["aws", "--endpoint-url", endpoint]) if endpoint else "aws"
    settings = [
        "# apt install awscli jq zstd age postgresql-client; then paste this into one bash session",
        "set -o pipefail",
        f"FOLDER={shlex.quote(folder)}",
        f"BACKUP={shlex.quote(name)}",
        f"AWS={shlex.quote(aws)}",
        "AGE_IDENTITY=/root/age.key  # file with the AGE-SECRET-KEY-1…; not used if the backup is not encrypted",
        "WORK=/var/tmp/recovery      # a new folder, on a disk with room",
        f"NEW_DATABASE={shlex.quote(_recovered(manifest.database))}",
        "JOBS=8",
        "export PGHOST=localhost PGPORT=5432 PGUSER=postgres",
    ]
    return "\n".join([*settings, "", BY_HAND.read_text()])


def _recovered(database: str) -> str:
    ending = "_recovered"
    # Longer names are cut by PostgreSQL, and then it may be the one that is there.
    return database.encode()[: _LONGEST_NAME_BYTES - len(ending)].decode(errors="ignore") + ending


def _line(*words: str) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _is_amazon(endpoint_url: str) -> bool:
    host = urlsplit(endpoint_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
