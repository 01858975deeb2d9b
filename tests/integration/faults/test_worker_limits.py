"""A worker that lacks files, disk or a network: one clear failure, and nothing of it stays."""

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from airflow_pg_s3.core.errors import PgS3Error
from testkit.s3 import REGION
from tests.integration.faults.task import Task
from tests.integration.faults.verbs import VERBS
from tests.integration.faults.world import World
from tests.support.fault_tally import TALLY, each
from tests.support.sampling import sample

SAMPLE = 1
OPEN_FILES = range(24)
DISK_KIB = range(8, 512, 16)


@pytest.fixture
def new_spool(tmp_path: Path) -> Callable[[], Path]:
    numbers = itertools.count()

    def make() -> Path:
        folder = tmp_path / f"spool {next(numbers)}"
        folder.mkdir()
        return folder

    return make


def is_failure(ended: dict[str, Any]) -> bool:
    return ended["end"] == "clear failure" or ended["text"] == "could not verify"


@pytest.mark.parametrize("verb", sample(list(VERBS), 2, "files"))
def test_too_few_open_files(
    world: World, new_live: Callable[[], str], new_spool: Callable[[], Path], verb: str
) -> None:
    tried = VERBS[verb](world, new_live)

    def check(number: int) -> None:
        given = tried.prepare()
        with Task(world, verb, spool_dir=new_spool(), open_files=number, **given) as task:
            ended = task.end()
        TALLY.count(verb, "too few open files", ended["end"])
        case = f"{verb} with {number} open files: {ended['end']}: {ended['text']}"
        assert ended["end"] in ("success", "clear failure"), case
        assert number > 0 or is_failure(ended), case
        tried.check(given, ended["end"], case)

    each([0, *sample(OPEN_FILES[1:], SAMPLE, verb, "files")], check)


@pytest.fixture
def new_disk(new_spool: Callable[[], Path]) -> Iterator[Callable[[int], Path]]:
    """(KiB) → a folder on a filesystem of that size."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small filesystem")
    mounted: list[Path] = []

    def make(size: int) -> Path:
        mounted.append(new_spool())
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(mounted[-1])], check=True)
        return mounted[-1]

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("verb", sample(list(VERBS), 2, "disk"))
def test_too_small_a_disk(
    world: World, new_live: Callable[[], str], new_disk: Callable[[int], Path], verb: str
) -> None:
    tried = VERBS[verb](world, new_live)

    def check(size: int) -> None:
        given = tried.prepare()
        with Task(world, verb, spool_dir=new_disk(size), **given) as task:
            ended = task.end()
        TALLY.count(verb, "too small a disk", ended["end"])
        case = f"{verb} with {size} KiB of disk: {ended['end']}: {ended['text']}"
        assert ended["end"] in ("success", "clear failure"), case
        assert size > DISK_KIB[0] or is_failure(ended), case
        tried.check(given, ended["end"], case)

    each([DISK_KIB[0], *sample(DISK_KIB[1:], SAMPLE, verb, "disk")], check)


NOWHERE = {
    "refused": "http://127.0.0.1:1",
    "unknown name": "http://s3.invalid:80",
}


@pytest.mark.parametrize("verb", [*VERBS, "prune"])
@pytest.mark.parametrize("why", NOWHERE)
def test_an_s3_that_is_not_there(world: World, new_live: Callable[[], str], verb: str, why: str) -> None:
    client = boto3.client(
        "s3", endpoint_url=NOWHERE[why], region_name=REGION, aws_access_key_id="k", aws_secret_access_key="s",
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )  # fmt: skip
    actions: dict[str, Callable[[], object]] = {
        "backup": lambda: world.back_up("nowhere", client),
        "restore": lambda: world.replace(new_live(), world.backup.uri, client),
        "verification": lambda: world.verify(world.backup.uri, client),
        "prune": lambda: world.prune("nowhere", client),
    }
    with pytest.raises(PgS3Error, match=r"(?i)could not connect to the endpoint url") as caught:
        actions[verb]()
    TALLY.count(verb, f"S3: {why}", "clear failure")
    assert NOWHERE[why] in str(caught.value)


@pytest.mark.parametrize("where", [{"host": "127.0.0.1", "port": "1"}, {"host": "db.invalid", "port": "5432"}])
@pytest.mark.parametrize("verb", VERBS)
def test_a_postgresql_that_is_not_there(world: World, verb: str, where: dict[str, str]) -> None:
    nowhere = world.params("x")
    nowhere = type(nowhere)(database="x", keywords={**nowhere.keywords, **where})
    before = world.stored("original")
    actions: dict[str, Callable[[], object]] = {
        "backup": lambda: world.back_up("original", source=nowhere),
        "restore": lambda: world.replace("x", world.backup.uri, target=nowhere),
    }
    if verb in actions:
        with pytest.raises(PgS3Error) as caught:
            actions[verb]()
        said = str(caught.value)
    else:
        done = world.verify(world.uri(world.copy()), server=nowhere).verification
        assert done.outcome == "could not verify"
        said = str(done.reason)
    TALLY.count(verb, "PostgreSQL not there", "clear failure")
    assert where["host"] in said
    assert world.stored("original") == before
