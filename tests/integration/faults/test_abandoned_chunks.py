"""What a backup that was killed has stored serves the next one: copied by S3, and then nothing is left of it."""

import logging
import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pyrage
import pytest

from airflow_pg_s3.core.backup.backup import BackupResult
from testkit.fault_proxy import DENIED, Fault, FaultProxy, Request
from tests.integration.faults.task import Task
from tests.integration.faults.world import DATABASE, MIB, World
from tests.support.sampling import sample
from tests.support.waiting import wait_until

RUN = re.compile(r"/(\d{6})\.zst(\.age)?$")
IDENTITY, ANOTHER = (pyrage.x25519.Identity.generate() for _ in range(2))
RECIPIENTS = {"plain": [], "encrypted": [str(IDENTITY.to_public())]}
KILLED_AT = 4
"""Number of the run at which a backup is killed."""


def copied_from(request: Request) -> str | None:
    """The key that is copied, if that is what is asked for."""
    return next((v for name, v in request.headers.items() if name.lower() == "x-amz-copy-source"), None)


@dataclass(frozen=True)
class Abandoned:
    """A backup that was killed.

    :param runs: number of its runs.
    :param run_bytes: length of all of them.
    """

    prefix: str
    folder: str
    runs: int
    run_bytes: int


def kill_one(
    world: World, proxy: FaultProxy, prefix: str, spool: Path, *, at: int, recipients: list[str]
) -> Abandoned:
    """Kill a backup with all of its processes, when it has stored some of the large table."""
    before = set(world.stored(prefix))
    arguments = world.backup_arguments() | {"run_bytes": MIB, "age_recipients": recipients}
    with Task(
        SimpleNamespace(server=proxy),
        "backup",
        arguments,
        spool_dir=spool,
        repository=f"s3://{world.bucket}/{prefix}",
        held=True,
    ) as task:

        def kill(request: Request) -> None:
            run = RUN.search(request.key)
            if run and request.operation == "PutObject" and int(run.group(1)) == at:
                os.killpg(task.process.pid, signal.SIGKILL)

        proxy.reset(kill)
        task.go()
        assert task.end()["end"] == "killed"
    query = f"select count(*) from pg_stat_activity where datname = '{DATABASE}'"
    wait_until(lambda: world.cluster.psql(query) == "0\n")
    sent = {one.key.partition("/")[2] for one in proxy.requests if one.method == "PUT"}
    wait_until(lambda: sent <= world.stored(prefix).keys())
    proxy.reset()
    found = set(world.stored(prefix)) - before
    runs = [key for key in found if RUN.search(key)]
    assert len(runs) >= 2
    assert not [key for key in found if key.endswith(".json")]
    sizes = [world.client.head_object(Bucket=world.bucket, Key=f"{prefix}/{key}") for key in runs]
    folder = runs[0].rpartition("/")[0]
    return Abandoned(prefix, folder, len(runs), sum(size["ContentLength"] for size in sizes))


@pytest.fixture(scope="module")
def killed(world: World, proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Abandoned]:
    return {
        name: kill_one(
            world, proxy, uuid.uuid4().hex, tmp_path_factory.mktemp("spool"), at=KILLED_AT, recipients=recipients
        )
        for name, recipients in RECIPIENTS.items()
    }


@pytest.fixture
def prefix(world: World, killed: dict[str, Abandoned]) -> str:
    """Of a repository that holds nothing but what the killed backup has left."""
    return world.copy(killed["plain"].prefix)


@pytest.fixture(autouse=True)
def no_rule(proxy: FaultProxy) -> Iterator[None]:
    proxy.reset()
    yield
    proxy.reset()


@pytest.fixture
def back_up(world: World, proxy: FaultProxy) -> Callable[..., BackupResult]:
    """(prefix, **arguments) → a backup that was verified, and all of what is stored below the prefix."""

    def run(prefix: str, *, identities: list[str] | None = None, **arguments: object) -> BackupResult:
        made = world.back_up(prefix, proxy.client(), **{"run_bytes": MIB} | arguments)
        manifest = made.manifest
        assert manifest.new_stored_bytes == manifest.stored_bytes
        assert set(manifest.runs) == {manifest.backup_id}
        ours = re.compile(rf"{DATABASE}/{manifest.backup_id}[./]")
        assert [key for key in world.stored(prefix) if not ours.match(key)] == []
        verified = world.verify(made.uri, identities=identities or [])
        assert verified.verification.outcome == "verified"
        return made

    return run


def copies(proxy: FaultProxy) -> list[str]:
    return [key for key in map(copied_from, proxy.requests) if key is not None]


def put_bytes(proxy: FaultProxy) -> int:
    """Length of the runs that were sent."""
    return sum(
        len(one.body)
        for one in proxy.requests
        if one.operation == "PutObject" and RUN.search(one.key) and copied_from(one) is None
    )


@pytest.mark.parametrize("kind", sample(list(RECIPIENTS), 1, "abandoned"))
def test_the_next_backup_sends_only_the_rest(
    world: World,
    proxy: FaultProxy,
    killed: dict[str, Abandoned],
    back_up: Callable[..., BackupResult],
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    caplog.set_level(logging.INFO)
    abandoned = killed[kind]
    prefix = world.copy(abandoned.prefix)
    made = back_up(prefix, age_recipients=RECIPIENTS[kind], identities=[str(IDENTITY)])
    assert len(copies(proxy)) == len(set(copies(proxy))) == abandoned.runs
    in_packs = sum(pack.stored_bytes for pack in made.manifest.packs)
    in_runs = made.manifest.stored_bytes - in_packs
    assert put_bytes(proxy) < in_runs - abandoned.run_bytes * 0.99
    assert put_bytes(proxy) + abandoned.run_bytes < in_runs * 1.01
    backup_id = abandoned.folder.rpartition("/")[2]
    assert f"{abandoned.runs} objects" in caplog.text
    assert f"of backup {backup_id}, which was killed, were copied" in caplog.text
    assert f"objects of backup {backup_id}, which was killed" in caplog.text


def test_backups_that_are_killed_again_and_again_leave_no_more_than_two(
    world: World, proxy: FaultProxy, prefix: str, back_up: Callable[..., BackupResult], tmp_path: Path
) -> None:
    def folders() -> set[str]:
        return {re.split("[./]", key)[1] for key in world.stored(prefix)}

    (first,) = folders()
    # Which copies all of the first one, and then stores more.
    later = kill_one(world, proxy, prefix, tmp_path, at=KILLED_AT + 2, recipients=[])
    assert len(folders()) == 2
    # Which has stored less than the one before: that one stays, and the first is gone.
    kill_one(world, proxy, prefix, tmp_path, at=3, recipients=[])
    assert len(folders()) == 2
    assert first not in folders()
    made = back_up(prefix)
    assert len(copies(proxy)) == later.runs
    assert folders() == {made.manifest.backup_id}


@pytest.mark.parametrize(
    "arguments",
    [
        {"full": True},
        {"full_every": timedelta(0)},
        {"age_recipients": [str(ANOTHER.to_public())], "identities": [str(ANOTHER)]},
    ],
    ids=["full", "full_every", "other recipients"],
)
def test_what_cannot_serve_is_removed_at_once(
    world: World, proxy: FaultProxy, prefix: str, back_up: Callable[..., BackupResult], arguments: dict
) -> None:
    back_up(prefix, **arguments)
    assert copies(proxy) == []
    operations = [request.operation for request in proxy.requests if request.operation != "GetObject"]
    assert operations.index("DeleteObjects") < operations.index("PutObject")


def refuse(world: World, prefix: str) -> Callable[[Request], Fault | None]:
    return lambda request: DENIED if copied_from(request) else None


def do_not_give_out(world: World, prefix: str) -> Callable[[Request], Fault | None]:
    return lambda request: DENIED if request.operation == "GetObject" and RUN.search(request.key) else None


def remove_meanwhile(world: World, prefix: str) -> Callable[[Request], Fault | None]:
    """As its process does that was cut off from the server, and notices when two runs were copied."""
    seen: list[str] = []

    def remove(request: Request) -> None:
        if source := copied_from(request):
            seen.append(source)
            if len(seen) == 3:
                folder = "/".join(source.split("/")[-3:-1])
                for key in world.stored(prefix):
                    if key.startswith(folder):
                        world.client.delete_object(Bucket=world.bucket, Key=f"{prefix}/{key}")

    return remove


@pytest.mark.parametrize(
    ("trouble", "copied"),
    sample([(refuse, 0), (do_not_give_out, 0), (remove_meanwhile, 2)], 2, "trouble"),
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_copied_is_stored_anew(
    world: World,
    proxy: FaultProxy,
    prefix: str,
    back_up: Callable[..., BackupResult],
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[World, str], Callable[[Request], Fault | None]],
    copied: int,
) -> None:
    proxy.reset(trouble(world, prefix))
    made = back_up(prefix)
    runs = sum(last - first + 1 for first, last in made.manifest.runs[made.manifest.backup_id])
    puts = [one for one in proxy.requests if RUN.search(one.key) and one.body]
    assert len(puts) == runs - copied
    assert len(copies(proxy)) == (0 if trouble is do_not_give_out else copied + 1)
    said = [record for record in caplog.records if "are stored anew, as S3 does not give" in record.message]
    assert len(said) == 1


def test_runs_that_do_not_say_what_they_hold_are_not_copied(
    world: World, proxy: FaultProxy, prefix: str, back_up: Callable[..., BackupResult]
) -> None:
    for key in world.stored(prefix):
        if RUN.search(key):
            run = world.client.get_object(Bucket=world.bucket, Key=f"{prefix}/{key}")["Body"].read()
            world.client.put_object(Bucket=world.bucket, Key=f"{prefix}/{key}", Body=run[:-1])
    back_up(prefix)
    assert copies(proxy) == []
