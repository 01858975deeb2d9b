"""What a command takes, with all its children: seconds, CPU, memory, disk, S3 requests."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from airflow_pg_s3.core.backup.spool import READ_BYTES
from airflow_pg_s3.core.repository.codec import Encoder

_LOOK_SECONDS = 0.5
_READY_SECONDS = 0.005
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run.

    :param cpu_seconds: user and system, of the command and its children; the servers' are not among them.
    :param peak_rss_bytes: proportional set size over all of them (smaps_rollup), the most that was seen.
    :param peak_disk_bytes: in the command's own folder, likewise.
    :param servers: what the servers' counters have gained meanwhile.
    :param own: what a task of ours tells of its own process: CPU seconds of its work, and the most memory it had.
    """

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    peak_disk_bytes: int
    servers: Mapping[str, float]
    own: Mapping[str, float] = field(default_factory=dict)


def measure(
    script: str,
    *,
    env: Mapping[str, str],
    folder: Path,
    counters: Mapping[str, Callable[[], float]],
    stdin: str = "",
) -> Measured:
    """Run a bash script in a folder; a failure raises with what it said.

    :param counters: of the servers.
    :param stdin: for a task of ours; its time begins when it is ready, as does that of an operator in Airflow.
    """
    before = {name: counter() for name, counter in counters.items()}
    log = folder.with_suffix(".log")
    with log.open("wb") as output, _watched(folder) as most:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            env=dict(env),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        assert process.stdin
        most.group = process.pid
        process.stdin.write(stdin.encode())
        process.stdin.flush()
        while stdin and not log.stat().st_size and process.poll() is None:
            time.sleep(_READY_SECONDS)
        began = time.monotonic()
        process.stdin.close()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
    if status:
        raise RuntimeError(f"{script}\nended with {os.waitstatus_to_exitcode(status)}:\n{log.read_text()[-4000:]}")
    return Measured(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=most.rss,
        peak_disk_bytes=most.disk,
        servers={name: counter() - before[name] for name, counter in counters.items()},
        own=_told(log.read_text()),
    )


def _told(log: str) -> Mapping[str, float]:
    last = log.rstrip("\n").rpartition("\n")[2]
    if not last.startswith('{"end": "success"'):
        return {}
    found = json.loads(last)
    return {"cpu_seconds": found["own_cpu_seconds"], "peak_bytes": found["peak_kib"] << 10}


def compression_seconds(files: Iterable[Path], level: int) -> float:
    """CPU seconds that zstd alone takes for files, in the pieces that a backup gives it."""
    taken = 0.0
    for path in files:
        encoder = Encoder(level=level)
        with path.open("rb") as file:

            def pieces(file: BinaryIO = file) -> Iterator[bytes]:
                nonlocal taken
                while chunk := file.read(READ_BYTES):
                    began = time.thread_time()
                    yield chunk
                    taken += time.thread_time() - began

            encoder.encode(pieces(), lambda _: None)
    return taken


class _Most(threading.Thread):
    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.group = 0
        self.rss = 0
        self.disk = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(_LOOK_SECONDS):
            self.rss = max(self.rss, sum(map(_pss_of, _members_of(self.group))))
            self.disk = max(self.disk, _disk_of(self.folder))


@contextlib.contextmanager
def _watched(folder: Path) -> Iterator[_Most]:
    most = _Most(folder)
    most.start()
    try:
        yield most
    finally:
        most.ended.set()
        most.join()


def _pids() -> Iterator[int]:
    return map(int, filter(str.isdigit, os.listdir("/proc")))


def _members_of(group: int) -> Iterator[int]:
    for pid in _pids():
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == group:
                yield pid


def _pss_of(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def _disk_of(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def postgres_cpu(postmaster: int) -> Callable[[], float]:
    """() → CPU seconds of a server so far, of backends that have ended too."""

    def count() -> float:
        return sum(
            sum(times) if pid == postmaster else sum(times[:2])
            for pid, parent, times in _processes()
            if postmaster in {pid, parent}
        )

    return count


def ceph_cpu(home: Path) -> Callable[[], float]:
    """() → CPU seconds of all daemons of a Ceph so far."""

    def count() -> float:
        return sum(sum(times[:2]) for pid, _, times in _processes() if str(home) in _environment_of(pid))

    return count


def _processes() -> Iterator[tuple[int, int, list[float]]]:
    """Each process's id, its parent's, and CPU seconds: user, system, and the same of children that have ended."""
    for pid in _pids():
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold anything.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            yield pid, int(fields[1]), [int(ticks) / _TICKS for ticks in fields[11:15]]


def _environment_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    return ""


def ceph_requests(home: Path) -> Callable[[], int]:
    """() → how many requests radosgw has got, by its own count."""
    (socket,) = (home / "run").glob("client.rgw.a*.asok")

    def count() -> int:
        done = subprocess.run(
            ["ceph", "--admin-daemon", str(socket), "perf", "dump", "rgw"],
            capture_output=True,
            text=True,
            check=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
            | {"CEPH_CONF": str(home / "ceph.conf")},
        )
        return int(json.loads(done.stdout)["rgw"]["req"])

    return count
