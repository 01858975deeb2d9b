"""The PostgreSQL client programs on this machine, and the choice of the right version."""

from __future__ import annotations

import glob
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from airflow_pg_s3.core.errors import ClientProgramError, InputError
from airflow_pg_s3.core.postgres import pip_binaries
from airflow_pg_s3.core.postgres.redaction import redacted
from airflow_pg_s3.core.workspace.resources import is_resource_exhaustion

STANDARD_PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu and their PGDG packages
    "/usr/pgsql-*/bin",  # Red Hat's PGDG packages
    "/usr/libexec/postgresql*",  # Alpine
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
)
OLDEST_MAJOR = 13
_PROGRAMS = ("pg_dump", "pg_restore")
# Nothing else is inherited: a worker's environment holds connections and keys, and PG* variables could redirect a
# connection.
_INHERITED = re.compile("HOME|PATH|TMPDIR|LD_LIBRARY_PATH|USER|LOGNAME|KRB5.*|SSL_CERT.*|OPENSSL_CONF")
# Archive format version of each major version's pg_dump. A pg_restore refuses newer formats than its own
# ("unsupported version in file header").
_FIRST_MAJOR_OF_ARCHIVE = {13: (1, 14), 14: (1, 14), 15: (1, 14), 16: (1, 15), 17: (1, 16), 18: (1, 16)}
_FIRST_MAJOR_WITH_TRANSACTION_TIMEOUT = 17


def rejects_transaction_timeout(tools: ClientTools, target_version: int) -> bool:
    """True if pg_restore sends `transaction_timeout` and the target does not know it."""
    return tools.major >= _FIRST_MAJOR_WITH_TRANSACTION_TIMEOUT > target_version // 10000


@dataclass(frozen=True, kw_only=True)
class ClientTools:
    """One installation of the client programs.

    :param major: major version, such as 16.
    :param version: full version, such as ``16.14``.
    :param folder: the folder of `pg_dump` and `pg_restore`.
    """

    major: int
    version: str
    folder: Path

    def is_of_minor(self, server_version: int) -> bool:
        """True if the programs are of a server's major version, and of the same or a newer minor version.

        Minor versions of different major versions cannot be compared.

        :param server_version: the server's ``server_version_num``, such as 160014.
        """
        return self.major == server_version // 10000 and server_version % 10000 <= self.minor

    @property
    def minor(self) -> int:
        """Minor version, such as 14; 0 before the first release."""
        minor = re.fullmatch(r"\d+\.(\d+)", self.version)
        return int(minor[1]) if minor else 0

    @property
    def is_packaged(self) -> bool:
        """True if these are the programs of the extra ``[clients]``."""
        return self.folder == pip_binaries.programs().folder

    @property
    def label(self) -> str:
        """Version and folder, as messages name an installation."""
        return f"{self.version} in {self.folder}{' (of [clients])' if self.is_packaged else ''}"

    def path(self, program: str) -> str:
        """Return the path of a program of this installation."""
        return str(self.folder / program)

    def ask_pg_restore(self, *arguments: str) -> bytes:
        """Return the output of `pg_restore`.

        :raises ClientProgramError: pg_restore cannot read the archive.
        """
        return self.ask("pg_restore", *arguments)

    def ask(self, program: str, *arguments: str) -> bytes:
        """Return the output of a program.

        :raises ClientProgramError: the program fails, or is killed.
        """
        done = subprocess.run(
            [self.path(program), *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=environment(),
            check=False,
        )
        if done.returncode != 0:
            raise failure(program, done.returncode, done.stderr)
        return done.stdout


def environment() -> dict[str, str]:
    """Return the environment for a client program: what it needs of this process's, and English messages."""
    # English messages can be searched for, and some are parsed.
    return {k: v for k, v in os.environ.items() if _INHERITED.fullmatch(k)} | {"LC_ALL": "C", "LANGUAGE": "C"}


def for_dump(server_version: int, *, search: Sequence[str] = ()) -> list[ClientTools]:
    """Return the installations whose `pg_dump` can dump a server, the best first.

    The best are of the server's major version, and of its minor version or a later one. Then come the others of
    that major version, then newer major versions.

    :param server_version: the server's ``server_version_num``, such as 160014.
    :param search: folders to search before ``PATH`` and the standard folders.
    :raises InputError: every `pg_dump` found is older than the server; the message lists them.
    """
    major = server_version // 10000
    # pg_dump refuses servers of a newer major version.
    fitting = [tools for tools in installed(search) if tools.major >= major]
    if fitting:
        return sorted(fitting, key=lambda tools: (tools.major, not tools.is_of_minor(server_version)))
    raise none_fits(f"PostgreSQL {major} is to be dumped, which takes pg_dump {major} or newer", major, search)


def for_restore(*, dumped_by: str, target_version: int, search: Sequence[str] = ()) -> ClientTools:
    """Choose the oldest `pg_restore` that can read an archive of ours and is not older than the target.

    :param dumped_by: version of the `pg_dump` that made the archive, such as ``16.14``.
    :param target_version: ``server_version_num`` of the target.
    :param search: folders to search before ``PATH`` and the standard folders.
    :raises InputError: there is none; the message lists those found.
    """
    dump_major = _major(dumped_by)
    target_major = target_version // 10000
    return _oldest(
        (t for t in installed(search) if t.major >= target_major and _reads(t.major, dump_major)),
        target_version=target_version,
        need=f"an archive of pg_dump {dumped_by} is to be restored into PostgreSQL {target_major}, "
        f"which takes pg_restore {max(dump_major, target_major)} or newer",
        package=max(dump_major, target_major),
        search=search,
    )


def for_archive(version: tuple[int, int], *, target_version: int, search: Sequence[str] = ()) -> ClientTools:
    """Choose the oldest `pg_restore` that can read another tool's archive and is not older than the target.

    :param version: version of the archive's format, such as (1, 15).
    :param target_version: ``server_version_num`` of the target.
    :param search: folders to search before ``PATH`` and the standard folders.
    :raises InputError: there is none; the message lists those found.
    """
    newest = max(_FIRST_MAJOR_OF_ARCHIVE)
    reading = [major for major, latest in _FIRST_MAJOR_OF_ARCHIVE.items() if latest >= version]
    first = max(min(reading, default=newest + 1), target_version // 10000)
    return _oldest(
        (tools for tools in installed(search) if tools.major >= first),
        target_version=target_version,
        need=f"an archive of format {version[0]}.{version[1]} is to be restored into PostgreSQL "
        f"{target_version // 10000}, which takes pg_restore {first} or newer",
        package=first,
        search=search,
    )


def installed(search: Sequence[str] = ()) -> list[ClientTools]:
    """Return the installations found, one for each folder, the preferred first.

    Those in `search` come first. The programs of the extra ``[clients]`` come last, but before older minors in
    ``PATH`` and the standard folders.
    """
    given = _found(Path(folder).absolute() for folder in search if folder)
    others = [tools for tools in _found(_usual_folders()) if tools not in given]
    packaged = pip_binaries.programs().folder
    for tools in _found([packaged] if packaged else []):
        is_older = (other.major == tools.major and other.minor < tools.minor for other in others)
        others.insert(next((i for i, older in enumerate(is_older) if older), len(others)), tools)
    return [tools for tools in (*given, *others) if tools.major >= OLDEST_MAJOR]


def _found(folders: Iterable[Path]) -> list[ClientTools]:
    versions = {folder: _version(folder) for folder in folders}
    return [
        ClientTools(major=_major(version), version=version, folder=folder)
        for folder, version in versions.items()
        if version
    ]


def _major(version: str) -> int:
    # The version may also look like "19beta1".
    return int(re.split(r"\D", version, maxsplit=1)[0])


def _reads(restore_major: int, dump_major: int) -> bool:
    if restore_major >= dump_major:
        return True
    archive = _FIRST_MAJOR_OF_ARCHIVE.get(dump_major)
    return archive is not None and _FIRST_MAJOR_OF_ARCHIVE.get(restore_major) == archive


def none_fits(need: str, package: int, search: Sequence[str], *, version: str | None = None) -> InputError:
    """Return the error that names the installations found, and what to install.

    :param need: what is to be done, and what it takes.
    :param package: major version of the package to install.
    :param version: oldest version of the package that is new enough.
    """
    least = f" in version {version} or newer" if version else ""
    there = installed(search)
    found = ", ".join(tools.label for tools in there) or "none"
    has_packaged = any(tools.is_packaged for tools in there)
    pip = "" if has_packaged else ", or install pip's airflow-provider-pg-s3[clients]"
    return InputError(
        f"{need}; found on this worker: {found}. Install the package postgresql-client-{package}{least} "
        "(https://www.postgresql.org/download/), or name its folder in the option [pg_s3] client_path"
        f"{pip}{why_not_packaged()}"
    )


def why_not_packaged() -> str:
    """Return what to add to the error that nothing fits, if the extra ``[clients]`` is installed in vain."""
    folder, problem = pip_binaries.programs()
    if folder is not None:
        try:
            ClientTools(major=0, version="", folder=folder).ask("pg_dump", "--version")
        except ClientProgramError as error:
            problem = (
                f"{pip_binaries.PACKAGE} is installed, but {error.stderr_tail.strip()}: install the system's "
                "package of this library"
            )
    return f"; {problem}" if problem else ""


def _oldest(
    fitting: Iterator[ClientTools], *, target_version: int, need: str, package: int, search: Sequence[str]
) -> ClientTools:
    # Within a major version, one that is not older than the server is preferred.
    best = min(fitting, key=lambda tools: (tools.major, not tools.is_of_minor(target_version)), default=None)
    if best is None:
        raise none_fits(need, package, search)
    return best


def _usual_folders() -> Iterator[Path]:
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder:
            # Absolute, as programs are started in another working directory.
            yield Path(folder).absolute()
    for pattern in STANDARD_PLACES:
        for match in sorted(glob.glob(pattern)):
            yield Path(match)


def failure(program: str, returncode: int, stderr: bytes) -> ClientProgramError:
    """Return the error for a program that has exited with another status than 0."""
    return ClientProgramError(program, returncode, redacted(stderr.decode(errors="replace"))[-2000:])


def said_version(program: str) -> str | None:
    """Return a program's version, such as ``16.14``, by ``--version``; None if it is not PostgreSQL's.

    :raises OSError: the program cannot be started.
    :raises subprocess.SubprocessError: the program fails.
    """
    answer = subprocess.run(
        [program, "--version"], capture_output=True, timeout=60, check=True, env=environment()
    ).stdout.decode(errors="replace")
    match = re.search(r"\(PostgreSQL\) (\d+[\w.]*)", answer)
    return match.group(1) if match else None


@lru_cache(maxsize=64)
def _version(folder: Path) -> str | None:
    programs = [folder / name for name in _PROGRAMS]
    if not all(os.access(program, os.X_OK) for program in programs):
        return None
    # Debian's /usr/bin/pg_dump is a script that chooses a version by the local clusters.
    if any(program.resolve().name == "pg_wrapper" for program in programs):
        return None
    try:
        return said_version(str(programs[0]))
    except OSError as error:
        if is_resource_exhaustion(error):
            raise
        return None
    except subprocess.SubprocessError:
        return None
