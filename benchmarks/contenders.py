"""What is measured: the limits of the machine, what people run, and this package."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.postgres import Cluster
from lab.s3 import REGION, S3Server
from lab.task import told

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Place:
    """Where contenders read from and write to.

    :param folder: for what they keep on disk; empty before each run.
    """

    cluster: Cluster
    server: S3Server
    bucket: str
    database: str
    target: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """For libpq's programs and for `aws`."""
        return self.cluster.client_env(self.database) | {
            "PATH": f"{self.cluster.pg_bin}:{self.cluster.client_env()['PATH']}",
            "AWS_ACCESS_KEY_ID": self.server.access_key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.server.endpoint_url,
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "PYTHONPATH": str(ROOT),
        }


@dataclass(frozen=True)
class Contender:
    """A way to back up, or to restore.

    :param script: for bash, in an empty folder, with `$B` for the bucket and `$T` for the target database.
    :param needs: name of the contender whose backup a restore reads; its folder, if it was kept on disk.
    :param stores: key prefix of what it leaves on S3; None if it leaves files.
    :param verb: of ours, with its arguments, instead of a script.
    """

    name: str
    script: str = ""
    needs: str | None = None
    stores: str | None = None
    verb: tuple[str, Mapping[str, Any]] | None = None

    def command(self, place: Place, backup_uri: str | None) -> tuple[str, str]:
        """The script, and what it is told on its standard input."""
        if self.verb is None:
            names = f"B={shlex.quote(place.bucket)} T={shlex.quote(place.target)}"
            return f"{names}\n{self.script}", ""
        verb, arguments = self.verb
        return f"exec {shlex.quote(sys.executable)} -m lab.task", _told(verb, arguments, place, backup_uri)


def _told(verb: str, arguments: Mapping[str, Any], place: Place, backup_uri: str | None) -> str:
    cluster = place.cluster
    keywords = {
        "host": cluster.host,
        "port": str(cluster.port),
        "user": cluster.user,
        "password": cluster.password,
    }
    given: dict[str, Any] = {
        **arguments,
        "spool_dir": str(place.folder),
        "client_path": [str(cluster.pg_bin)],
    }
    if verb == "backup":
        given["source"] = {"database": place.database, "keywords": keywords}
    else:
        given |= {"target": {"database": place.target, "keywords": keywords}, "backup": backup_uri}
    return told(verb, given, place.server, repository=f"s3://{place.bucket}/ours")


def backups(jobs: int) -> list[Contender]:
    """Ways to back up; the first is the limit that all others are measured by."""
    return [
        Contender("read limit", f"pg_dump -Fd -j{jobs} -Z0 -f dump"),
        Contender(
            "pg_dump -Fc | aws s3 cp",
            "pg_dump -Fc | aws s3 cp --only-show-errors - s3://$B/fc.dump",
            stores="fc.dump",
        ),
        Contender(
            "pg_dump -Ft | gzip, aws s3 cp",
            "pg_dump -Ft | gzip > dump.tar.gz && aws s3 cp --only-show-errors dump.tar.gz s3://$B/seed.tar.gz",
            stores="seed.tar.gz",
        ),
        Contender(
            "pg_dump -Fc | zstd -5 -T0 | aws s3 cp",
            "pg_dump -Fc -Z0 | zstd -q -5 -T0 | aws s3 cp --only-show-errors - s3://$B/fc.dump.zst",
            stores="fc.dump.zst",
        ),
        Contender(
            "pg_dump -Fd, aws s3 sync",
            f"pg_dump -Fd -j{jobs} -f dump && aws s3 sync --only-show-errors dump s3://$B/fd",
            stores="fd/",
        ),
        *(
            Contender(f"ours, {n} jobs, level {level}", verb=("backup", {"jobs": n, "compression_level": level}),
                      stores="ours/")
            for n, level in ((1, 1), (2, 1), (4, 1), (2, 3), (2, 6))
        ),
    ]  # fmt: skip


def restores(jobs: int) -> list[Contender]:
    """Ways to restore what `backups` has left; the first is the limit."""
    return [
        Contender("write limit", f"pg_restore -j{jobs} -d $T $OLDPWD/dump", needs="read limit"),
        Contender(
            "aws s3 cp | pg_restore",
            "aws s3 cp --only-show-errors s3://$B/fc.dump - | pg_restore -d $T",
            needs="pg_dump -Fc | aws s3 cp",
        ),
        Contender(
            "aws s3 cp | zstd -d | pg_restore",
            "aws s3 cp --only-show-errors s3://$B/fc.dump.zst - | zstd -q -d | pg_restore -d $T",
            needs="pg_dump -Fc | zstd -5 -T0 | aws s3 cp",
        ),
        Contender(
            "aws s3 sync, pg_restore -j",
            f"aws s3 sync --only-show-errors s3://$B/fd dump && pg_restore -j{jobs} -d $T dump",
            needs="pg_dump -Fd, aws s3 sync",
        ),
        *(
            Contender(f"ours, {n} jobs", verb=("restore", {"jobs": n}), needs="ours, 2 jobs, level 1")
            for n in (1, 2, 4)
        ),
    ]
