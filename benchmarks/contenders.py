"""What is measured: the limits of the machine, what people run, and this package.

Contenders that are `thorough` alone are measured on one shape only, as they differ from others in one setting.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testkit.postgres import Cluster
from testkit.s3 import REGION, S3Server
from testkit.task_process import told

ROOT = Path(__file__).parents[1]
# As with TLS, nobody signs bodies: nor does `aws`, nor do we.
AWS_CONFIG = Path(__file__).parent / "aws.ini"
UNSIGNED = {"addressing_style": "path", "payload_signing_enabled": False}

OURS = "ours, 2 jobs, level 1"
OUR_RESTORE = "ours, 2 jobs"
ENCRYPTED = f"{OURS}, encrypted"
DISCARDED = f"{OURS}, S3 discards"
READ_LIMIT = "read limit"
WRITE_LIMIT = "write limit"
RESTIC_FOLDER = "pg_dump -Fd, restic"
RESTIC_STREAM = "pg_dump -Fc | restic"
BORG = "pg_dump -Fc | borg, local"
# Debian's; encrypts, which it always does, and compresses.
_RESTIC = "export RESTIC_PASSWORD=bench RESTIC_CACHE_DIR=$S/cache RESTIC_REPOSITORY=s3:$AWS_ENDPOINT_URL/$B/{}\n"
# Neither encrypts nor sends what it stores.
_BORG = (
    "export BORG_REPO=$S/stored BORG_BASE_DIR=$S/base BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes "
    "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes\n"
)


@dataclass(frozen=True)
class Place:
    """Where contenders read from and write to.

    :param sink: takes the place of `server` where nothing but the backup is to be measured.
    :param folder: for what they keep on disk; empty before each run.
    :param state: for what one of them needs the next night; what it stores there is in ``stored``.
    :param identity: of age, and its recipient, for what is encrypted.
    """

    cluster: Cluster
    server: S3Server
    sink: S3Server
    bucket: str
    database: str
    target: str
    folder: Path
    state: Path
    identity: tuple[str, str]

    @property
    def names(self) -> str:
        """The names that scripts use."""
        values = {"B": self.bucket, "T": self.target, "S": str(self.state)}
        return " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items())

    @property
    def environment(self) -> dict[str, str]:
        """For libpq's programs and for `aws`."""
        return self.cluster.client_env(self.database) | {
            "PATH": f"{self.cluster.pg_bin}:{self.cluster.client_env()['PATH']}",
            "AWS_ACCESS_KEY_ID": self.server.access_key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.server.endpoint_url,
            "AWS_CONFIG_FILE": str(AWS_CONFIG),
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "PYTHONPATH": str(ROOT),
        }


@dataclass(frozen=True)
class Contender:
    """A way to back up, or to restore.

    :param script: for bash, in an empty folder, with `$B` for the bucket, `$T` for the target database, and `$S`
        for the folder that stays.
    :param prepare: a script that runs before the first night, and is not measured.
    :param needs: name of the contender whose backup a restore reads; its folder, if it was kept on disk.
    :param stores: key prefix of what it leaves on S3; None if it leaves files.
    :param verb: of ours, with its arguments, instead of a script.
    :param thorough: whether it is measured on one shape alone.
    """

    name: str
    script: str = ""
    prepare: str = ""
    needs: str = ""
    stores: str | None = None
    verb: tuple[str, Mapping[str, Any]] | None = None
    thorough: bool = False

    def command(self, place: Place, backup_uri: str | None) -> tuple[str, str]:
        """The script, and what it is told on its standard input."""
        if self.verb is None:
            return f"{place.names}\n{self.script}", ""
        return f"exec {shlex.quote(sys.executable)} -m testkit.task_process", self._told(
            place, *self.verb, backup_uri
        )

    def _told(self, place: Place, verb: str, arguments: Mapping[str, Any], backup_uri: str | None) -> str:
        cluster = place.cluster
        given: dict[str, Any] = {
            **arguments,
            "spool_dir": str(place.folder),
            "client_path": [str(cluster.pg_bin)],
        }
        identity, recipient = place.identity
        if verb == "backup":
            given["source"] = {"database": place.database, "keywords": cluster.keywords}
            given["age_recipients"] = [recipient] if self.name == ENCRYPTED else []
        else:
            given |= {"target": {"database": place.target, "keywords": cluster.keywords}, "backup": backup_uri}
            given["identities"] = [identity] if self.needs == ENCRYPTED else []
        repository = f"s3://{place.bucket}/{(self.stores or '').rstrip('/')}"
        server = place.sink if self.name == DISCARDED else place.server
        config = {**server.config_kwargs, "s3": UNSIGNED}
        return told(verb, given, server, repository=repository, config=config) + "\n"


def backups(jobs: int) -> list[Contender]:
    """Ways to back up; the first is the limit that all others are measured by."""

    def ours(name: str, jobs: int = 2, level: int = 1, *, stores: str = "varied/", thorough: bool) -> Contender:
        arguments = {"jobs": jobs, "compression_level": level}
        return Contender(name, verb=("backup", arguments), stores=stores, thorough=thorough)

    return [
        Contender(READ_LIMIT, f"pg_dump -Fd -j{jobs} -Z0 -f dump"),
        Contender(
            "pg_dump -Fc | aws s3 cp",
            "pg_dump -Fc | aws s3 cp --only-show-errors - s3://$B/fc/dump",
            stores="fc/",
        ),
        Contender(
            "pg_dump -Ft | gzip, aws s3 cp",
            "pg_dump -Ft | gzip > dump.tar.gz && aws s3 cp --only-show-errors dump.tar.gz s3://$B/seed/dump.tar.gz",
            stores="seed/",
            thorough=True,
        ),
        Contender(
            "pg_dump -Fc | zstd -5 -T0 | aws s3 cp",
            "pg_dump -Fc -Z0 | zstd -q -5 -T0 | aws s3 cp --only-show-errors - s3://$B/zstd/dump",
            stores="zstd/",
        ),
        Contender(
            "pg_dump -Fd, aws s3 sync",
            f"pg_dump -Fd -j{jobs} -f dump && aws s3 sync --only-show-errors dump s3://$B/fd",
            stores="fd/",
        ),
        ours(OURS, stores="ours/", thorough=False),
        ours(DISCARDED, stores="discarded/", thorough=False),
        ours(ENCRYPTED, stores="encrypted/", thorough=True),
        ours("ours, 1 job, level 1", jobs=1, thorough=True),
        ours("ours, 4 jobs, level 1", jobs=4, thorough=True),
        ours("ours, 2 jobs, level 3", level=3, thorough=True),
        ours("ours, 2 jobs, level 6", level=6, thorough=True),
    ]


def restores(jobs: int) -> list[Contender]:
    """Ways to restore what `backups` has left; the first is the limit."""

    def ours(name: str, jobs: int = 2, *, needs: str = OURS, thorough: bool) -> Contender:
        return Contender(name, verb=("restore", {"jobs": jobs}), needs=needs, thorough=thorough)

    return [
        Contender(WRITE_LIMIT, f"pg_restore -j{jobs} -d $T $OLDPWD/dump", needs=READ_LIMIT),
        Contender(
            "aws s3 cp | pg_restore",
            "aws s3 cp --only-show-errors s3://$B/fc/dump - | pg_restore -d $T",
            needs="pg_dump -Fc | aws s3 cp",
        ),
        Contender(
            "aws s3 cp | zstd -d | pg_restore",
            "aws s3 cp --only-show-errors s3://$B/zstd/dump - | zstd -q -d | pg_restore -d $T",
            needs="pg_dump -Fc | zstd -5 -T0 | aws s3 cp",
        ),
        Contender(
            "aws s3 sync, pg_restore -j",
            f"aws s3 sync --only-show-errors s3://$B/fd dump && pg_restore -j{jobs} -d $T dump",
            needs="pg_dump -Fd, aws s3 sync",
        ),
        ours(OUR_RESTORE, thorough=False),
        ours("ours, 2 jobs, encrypted", needs=ENCRYPTED, thorough=True),
        ours("ours, 1 job", jobs=1, thorough=True),
        ours("ours, 4 jobs", jobs=4, thorough=True),
    ]


def of_nights(jobs: int) -> list[Contender]:
    """Ways to back up that store only what is new, after the limit."""
    folder, stream = _RESTIC.format("restic-folder"), _RESTIC.format("restic-stream")
    return [
        Contender(READ_LIMIT, f"pg_dump -Fd -j{jobs} -Z0 -f dump"),
        Contender(
            RESTIC_FOLDER,
            # In the same place each night, as restic looks for the last backup of a path.
            f"{folder}pg_dump -Fd -j{jobs} -Z0 -f $S/dump\nrestic backup -q $S/dump\nrm -r $S/dump",
            prepare=f"{folder}restic init -q",
            stores="restic-folder/",
        ),
        Contender(
            RESTIC_STREAM,
            f"{stream}pg_dump -Fc -Z0 | restic backup -q --stdin --stdin-filename dump",
            prepare=f"{stream}restic init -q",
            stores="restic-stream/",
        ),
        Contender(
            BORG,
            f"{_BORG}pg_dump -Fc -Z0 | borg create --compression zstd,1 '::{{now:%Y%m%dT%H%M%S%f}}' -",
            prepare=f"{_BORG}borg init -e none",
        ),
        Contender(OURS, verb=("backup", {"jobs": jobs, "compression_level": 1}), stores="ours/"),
    ]


def of_mornings(jobs: int) -> list[Contender]:
    """Ways to restore the last of what `of_nights` has left."""
    folder, stream = _RESTIC.format("restic-folder"), _RESTIC.format("restic-stream")
    return [
        Contender(WRITE_LIMIT, f"pg_restore -j{jobs} -d $T $OLDPWD/dump", needs=READ_LIMIT),
        Contender(
            "restic, pg_restore -j",
            f"{folder}restic restore -q latest --target .\npg_restore -j{jobs} -d $T .$S/dump",
            needs=RESTIC_FOLDER,
        ),
        Contender(
            "restic | pg_restore", f"{stream}restic dump -q latest dump | pg_restore -d $T", needs=RESTIC_STREAM
        ),
        Contender(
            "borg | pg_restore",
            f'{_BORG}borg extract --stdout "::$(borg list --last 1 --short)" | pg_restore -d $T',
            needs=BORG,
        ),
        Contender(OUR_RESTORE, verb=("restore", {"jobs": jobs}), needs=OURS),
    ]
