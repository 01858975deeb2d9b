"""What each pg_restore at hand takes as an archive, asked of the program itself: its version decides on nothing.

Those of November 2026 (15.20, 17.12) open only regular files in a directory; those before open anything. The
product must work with either, so it relies on nothing but what all of them do.
"""

import io
import operator
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from testkit.dumps import dump
from testkit.postgres import Cluster, Installation, all_installations

FILL = "create table t as select i from generate_series(1, 100) i; create index on t (i);"
REFUSAL = "is not a regular file"
VERSION = operator.attrgetter("version")


@pytest.fixture(scope="module")
def filled(cluster_of: Callable[[int], Cluster]) -> Iterator[tuple[Cluster, str]]:
    """A small database on the oldest server here, whose archive every client reads."""
    cluster = cluster_of(min(each.major for each in all_installations()))
    cluster.create_database("for pg_restore")
    cluster.psql(FILL, "for pg_restore")
    yield cluster, "for pg_restore"
    cluster.drop_database("for pg_restore")


@pytest.fixture
def archive(filled: tuple[Cluster, str], tmp_path: Path) -> Path:
    """A directory archive."""
    packed = dump(*filled, "directory", tmp_path, "--compress=0")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "backup of it"


def rows(folder: Path) -> Path:
    (member,) = folder.glob("[0-9]*.dat")
    return member


def pg_restore(client: Installation, *arguments: str | Path, stdin: bytes | None = None) -> str:
    """What it prints; the error that it exits with is raised as RuntimeError."""
    given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    done = subprocess.run([client.folder / "pg_restore", *arguments], capture_output=True, timeout=60, **given)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    return done.stdout.decode()


def without_keys(script: str) -> list[str]:
    """The script, without the random keys of its `restrict` lines."""
    return [line for line in script.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


def script(client: Installation, folder: Path, *options: str, stdin: bytes | None = None) -> list[str]:
    """All commands and rows of an archive."""
    archive = [folder] if stdin is None else []
    return without_keys(pg_restore(client, "--file=-", *options, *archive, stdin=stdin))


# -- what differs: it opens anything, or regular files alone ------------------------------------------------------


def through_a_pipe(path: Path) -> None:
    """Put a named pipe in a file's place, out of which the file's content comes."""
    data = path.read_bytes()
    path.unlink()
    os.mkfifo(path)

    def write() -> None:
        with suppress(BrokenPipeError):
            path.write_bytes(data)

    threading.Thread(target=write).start()


def through_a_symbolic_link(path: Path) -> None:
    elsewhere = path.parent.with_name(path.name)
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


UNUSUAL = {
    "a pipe as member": lambda folder: through_a_pipe(rows(folder)),
    "a symbolic link as member": lambda folder: through_a_symbolic_link(rows(folder)),
    "a symbolic link as toc.dat": lambda folder: through_a_symbolic_link(folder / "toc.dat"),
}


def opens_only_regular_files(client: Installation) -> bool:
    """Ask it to open a link to an empty file: then it complains of the link, or of the file."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "empty").touch()
        Path(folder, "toc.dat").symlink_to("empty")
        with pytest.raises(RuntimeError) as refused:
            pg_restore(client, "--list", folder)
    return REFUSAL in str(refused.value)


@pytest.fixture(params=UNUSUAL)
def unusual(request: pytest.FixtureRequest, archive: Path) -> Iterator[Path]:
    """A copy of the archive, with something in it that is no regular file."""
    folder = archive.with_name("unusual")
    shutil.copytree(archive, folder)
    UNUSUAL[request.param](folder)
    yield folder
    for pipe in filter(Path.is_fifo, folder.iterdir()):
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))  # lets a writer go that nobody has listened to


OPEN_REGULAR_FILES = [each for each in all_installations() if opens_only_regular_files(each)]
OPEN_ANYTHING = [each for each in all_installations() if each not in OPEN_REGULAR_FILES]


@pytest.mark.parametrize("client", OPEN_REGULAR_FILES, ids=VERSION)
def test_pg_restore_that_opens_only_regular_files(client: Installation, unusual: Path):
    with pytest.raises(RuntimeError, match=REFUSAL):
        script(client, unusual)


@pytest.mark.parametrize("client", OPEN_ANYTHING, ids=VERSION)
def test_pg_restore_that_opens_anything(client: Installation, archive: Path, unusual: Path):
    assert script(client, unusual) == script(client, archive)


# -- what the product relies on: every one of them does it --------------------------------------------------------

every_client = pytest.mark.parametrize("client", all_installations(), ids=VERSION)


@every_client
def test_every_pg_restore_opens_hard_links(client: Installation, archive: Path):
    linked = archive.with_name("linked")
    linked.mkdir()
    for file in archive.iterdir():
        (linked / file.name).hardlink_to(file)
    assert script(client, linked) == script(client, archive)
    assert "99\n100\n" in "\n".join(script(client, linked))


@every_client
def test_every_pg_restore_needs_members_for_their_rows_alone(client: Installation, archive: Path):
    options = (["--list"], ["--section=pre-data", "--file=-"], ["--section=post-data", "--file=-"])
    whole = [without_keys(pg_restore(client, *words, archive)) for words in options]
    rows(archive).unlink()
    assert [without_keys(pg_restore(client, *words, archive)) for words in options] == whole
    for lines, text in zip(whole, (" TABLE ", "CREATE TABLE", "CREATE INDEX"), strict=True):
        assert text in "\n".join(lines)
    with pytest.raises(RuntimeError, match="could not open input file"):
        script(client, archive)


@every_client
def test_every_pg_restore_follows_a_link_to_the_archive(client: Installation, archive: Path):
    link = archive.with_name("link")
    link.symlink_to(archive)
    assert script(client, link) == script(client, archive)


@every_client
@pytest.mark.parametrize("form", ["custom", "tar"])
def test_every_pg_restore_reads_an_archive_from_its_input(
    client: Installation, form: str, filled: tuple[Cluster, str], archive: Path, tmp_path: Path
):
    from_stdin = script(client, archive, stdin=dump(*filled, form, tmp_path))
    assert commands(from_stdin) == commands(script(client, archive))


def commands(lines: list[str]) -> list[str]:
    """Without comments: a tar's rows have others."""
    return [line for line in lines if line and not line.startswith("--")]
