"""A running client program: started without leaking secrets, its output read, paused, resumed, killed."""

from __future__ import annotations

import collections
import contextlib
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from airflow_pg_s3.core.errors import ClientProgramError
from airflow_pg_s3.core.postgres.redaction import Redactor
from airflow_pg_s3.core.workspace.janitor import processes_with

_TAIL_LINES = 30
_FIRST_ERRORS = 5
_LINE_LIMIT = 2000
_VARIABLE = "AIRFLOW_PG_S3_PROGRAM"
_PATIENCE_SECONDS = 30.0


class ClientProgram:
    """A running `pg_dump`, `pg_restore` or `psql`, with its parallel workers.

    It stays in this process group, as Airflow kills a task by its process group.

    :param argv: the program's path and arguments; nothing secret.
    :param env: the complete environment; a mark is added by which the program's workers are found.
    :param on_line: called on another thread with each line of standard error, without rows and passwords.
    :param stdin: file descriptor for standard input, as for `subprocess.Popen`; the caller closes it.
    :param keep: further descriptors for the program to inherit.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        on_line: Callable[[str], None] | None = None,
        stdin: int = subprocess.DEVNULL,
        keep: Sequence[int] = (),
    ) -> None:
        self.name = os.path.basename(argv[0])
        self._on_line = on_line
        self._workers: list[int] = []
        self._lines: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._first_errors: list[str] = []
        self._mark = secrets.token_hex(16)
        self._popen = subprocess.Popen(
            list(argv),
            env=dict(env) | {_VARIABLE: self._mark},
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            pass_fds=keep,
        )
        self._stderr_reader = threading.Thread(target=self._read_stderr, name=f"{self.name} stderr", daemon=True)
        self._stderr_reader.start()

    @property
    def pid(self) -> int:
        """Process id of the leader."""
        return self._popen.pid

    def poll(self) -> int | None:
        """Return the leader's exit status, None while it runs."""
        return self._popen.poll()

    def check(self) -> None:
        """Wait for the program; raise unless it has exited with status 0.

        :raises ClientProgramError: it has failed; the message has the tail of its standard error.
        """
        returncode = self._popen.wait()
        if returncode != 0:
            self.end()
            raise ClientProgramError(self.name, returncode, self.stderr_tail())

    def stderr_tail(self) -> str:
        """Return the last lines of standard error, and the first errors, once the program has ended."""
        self._stderr_reader.join(timeout=5)
        # Long output can follow an error: the query of a function, or messages of other workers.
        before = [line for line in self._first_errors if line not in self._lines]
        return "\n".join([*before, *self._lines])

    def pause(self) -> None:
        """Suspend the program and its workers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the program and its workers."""
        # A suspended leader has started no more workers than were found when it was suspended.
        _kill([self.pid, *self._workers], signal.SIGCONT)

    def end(self) -> None:
        """Kill the program and its workers if they still run; SIGKILL also ends suspended processes."""
        if self._popen.poll() is None:
            # A suspended leader starts no more workers.
            self.pause()
            self._signal(signal.SIGKILL)
        if self._popen.wait() != 0:
            self._end_orphans()

    def _end_orphans(self) -> None:
        """Kill workers that have outlived their leader, which somebody may have killed alone.

        They would go on working, and keep the database from being dropped.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (pids := processes_with(_VARIABLE, self._mark)) and time.monotonic() < deadline:
            _kill(pids, signal.SIGKILL)
            time.sleep(0.001)

    def _signal(self, number: signal.Signals) -> None:
        _kill([self.pid, *self._workers], number)
        # Known workers come first: finding new ones takes milliseconds, in which the known ones would go on
        # writing.
        workers = _children(self.pid)
        _kill([pid for pid in workers if pid not in self._workers], number)
        self._workers = workers

    def _read_stderr(self) -> None:
        is_rest_of_line = False
        redactor = Redactor()
        while self._popen.stderr and (raw := self._popen.stderr.readline(_LINE_LIMIT)):
            text = raw.decode(errors="replace").rstrip("\n")
            if is_rest_of_line:
                redactor.rest(text)
            else:
                line = redactor.line(text)
                if line is not None:
                    self._lines.append(line)
                    if "error: " in line and len(self._first_errors) < _FIRST_ERRORS:
                        self._first_errors.append(line)
                    if self._on_line is not None:
                        self._on_line(line)
            is_rest_of_line = not raw.endswith(b"\n")


@contextmanager
def running(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    on_line: Callable[[str], None] | None = None,
    stdin: int = subprocess.DEVNULL,
    keep: Sequence[int] = (),
) -> Iterator[ClientProgram]:
    """Context manager: run a client program; it is gone on exit."""
    program = ClientProgram(argv, env=env, on_line=on_line, stdin=stdin, keep=keep)
    try:
        yield program
    finally:
        program.end()


def _kill(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        # The process may just have ended.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _children(parent: int) -> list[int]:
    children = []
    for name in os.listdir("/proc"):
        # The process may have ended meanwhile.
        with contextlib.suppress(OSError):
            if name.isdigit():
                with open(f"/proc/{name}/stat", "rb") as file:
                    # "pid (name) state ppid ...", where the name may hold any character.
                    if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                        children.append(int(name))
    return children
