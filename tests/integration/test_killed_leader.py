"""Somebody kills pg_restore's leader alone, and its workers live on: no table is committed in part."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from botocore.response import StreamingBody

from airflow_pg_s3.core.errors import ClientProgramError
from lab.postgres import Cluster
from tests.integration.conftest import only_on
from tests.waiting import wait_until

ROWS = 300_000
FILL = f"""
create table large as select i, md5(i::text) || md5((i * 7)::text) as noise from generate_series(1, {ROWS}) as i;
create table other as select i, md5(i::text) || md5((i * 3)::text) as noise from generate_series(1, {ROWS}) as i;
"""
PIECE_BYTES = 100_000


def pg_restore_pids(pids: list[int]) -> list[int]:
    """Those of pg_restore that are there, the leader first."""
    parents = {}
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:  # gone meanwhile
            name, _, rest = file.read().partition("(")[2].rpartition(")")
            if name == "pg_restore" and rest.split()[0] != "Z":
                parents[pid] = int(rest.split()[1])
    return sorted(parents, key=lambda pid: parents[pid] in parents)


@pytest.fixture
def kill_leader_after(monkeypatch: pytest.MonkeyPatch, processes) -> Iterator[Callable[[int], list[int]]]:
    """(n) → kill it after n pieces of data were read; hardly any more come then. Returns the pids killed."""
    over = threading.Event()

    def arrange(pieces: int) -> list[int]:
        read = StreamingBody.read
        lock = threading.Lock()
        seen: list[int] = []
        killed: list[int] = []

        def in_pieces(self: StreamingBody, amt: int | None = None) -> bytes:
            if amt is None or amt <= PIECE_BYTES:
                return read(self, amt)
            with lock:
                if len(pids := pg_restore_pids(processes())) > 2:
                    seen.append(1)
                    if len(seen) == pieces:
                        os.kill(pids[0], signal.SIGKILL)
                        killed.append(pids[0])
            if killed:
                over.wait(1)
            return read(self, PIECE_BYTES)

        monkeypatch.setattr(StreamingBody, "read", in_pieces)
        return killed

    yield arrange
    over.set()


@only_on("moto")
@pytest.mark.parametrize("pieces", [4, 15, 40, 80, 120])
def test_a_table_is_whole_or_empty_when_the_leader_alone_was_killed(
    pg16: Cluster, new_database, back_up, restore, kill_leader_after, processes, pieces: int
) -> None:
    backup = back_up(pg16, new_database(pg16, FILL))
    target = new_database(pg16)
    killed = kill_leader_after(pieces)
    with pytest.raises(ClientProgramError, match="pg_restore was killed by signal 9"):
        restore(pg16, target, backup=backup["uri"], jobs=2)
    assert killed
    assert processes() == []
    wait_until(lambda: pg16.psql(f"select count(*) from pg_stat_activity where datname = '{target}'") == "0\n")
    for table in ("large", "other"):
        assert pg16.psql(f"select count(*) from {table}", target) in ("0\n", f"{ROWS}\n")
