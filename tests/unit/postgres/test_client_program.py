"""A client program and its workers are listened to, stopped, continued and ended, all of them together."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from airflow_pg_s3.core.errors import ClientProgramError
from airflow_pg_s3.core.postgres.client_program import ClientProgram, running

ENV = {"PATH": os.environ["PATH"]}


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def state(pid):
    """R running, S sleeping, T stopped, Z dead; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return None


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


@pytest.fixture
def program(fake_program):
    """Run shell commands as a client program would run; it is ended when the test is."""
    programs = []

    def start(commands, name="pg_dump", on_line=None):
        path = fake_program(commands, programs=[name]).path(name)
        programs.append(ClientProgram([path], env=ENV, on_line=on_line))
        return programs[-1]

    yield start
    for started in programs:
        started.resume()
        started.end()


@pytest.fixture
def tree(program):
    """A leader with two workers; all their pids."""
    leader = program("sleep 600 & sleep 600 & wait")
    assert until(lambda: len(children_of(leader.pid)) == 2)
    return leader, [leader.pid, *children_of(leader.pid)]


def test_a_program_that_ends_well_raises_nothing(program):
    done = program("exit 0")
    done.check()
    assert done.poll() == 0


def test_a_program_that_fails_is_named_with_its_status_and_last_words(program):
    with pytest.raises(ClientProgramError) as caught:
        program("echo 'pg_restore: error: no' >&2; echo detail >&2; exit 3", name="pg_restore").check()
    assert str(caught.value) == "pg_restore exited with status 3:\npg_restore: error: no\ndetail"
    assert (caught.value.program, caught.value.returncode) == ("pg_restore", 3)


def test_a_program_that_is_killed_is_named_with_the_signal(program):
    with pytest.raises(ClientProgramError) as caught:
        program("kill -TERM $$").check()
    assert str(caught.value) == "pg_dump was killed by signal 15"
    assert caught.value.returncode == -signal.SIGTERM


def test_every_line_is_heard_and_the_last_thirty_are_kept(program):
    heard = []
    done = program(
        "for n in $(seq 100); do echo line $n >&2; done; printf 'no end' >&2; exit 1", on_line=heard.append
    )
    with pytest.raises(ClientProgramError) as caught:
        done.check()
    assert heard == [*[f"line {n}" for n in range(1, 101)], "no end"]
    assert caught.value.stderr_tail.split("\n") == heard[-30:]


def test_the_first_error_is_kept_whatever_follows_it(program):
    ended = program(
        "(echo 'pg_restore: error: the cause'; seq 100; echo 'pg_restore: error: the end') >&2; exit 1"
    )
    with pytest.raises(ClientProgramError) as raised:
        ended.check()
    lines = raised.value.stderr_tail.split("\n")
    assert (lines[0], lines[1], lines[-1]) == ("pg_restore: error: the cause", "72", "pg_restore: error: the end")


def test_a_line_without_end_is_cut_and_its_rest_is_no_line_of_its_own(program):
    heard = []
    done = program(
        "head -c 5000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo next >&2; exit 1", on_line=heard.append
    )
    with pytest.raises(ClientProgramError):
        done.check()
    assert heard == ["x" * 2000, "next"]


def test_what_is_no_text_is_heard_nevertheless(program):
    done = program("printf 'gr\\344\\n' >&2; exit 1")
    with pytest.raises(ClientProgramError, match=r"gr\ufffd$"):
        done.check()


def test_it_stays_in_our_process_group_as_airflow_kills_a_task_by_its_group(tree):
    _, pids = tree
    assert {os.getpgid(pid) for pid in pids} == {os.getpgrp()}


def test_it_gets_its_environment_alone(program, tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY", "secret")
    program(f"(env; pwd) > '{tmp_path}/seen'").check()
    seen = (tmp_path / "seen").read_text()
    assert f"PATH={ENV['PATH']}\n" in seen
    assert "CANARY" not in seen
    assert seen.endswith("\n/\n")


def test_it_has_nothing_to_read_and_cannot_ask_for_a_password(program):
    ours, theirs = os.pipe()
    stdin = os.dup(0)
    os.dup2(ours, 0)
    try:
        asking = program("read password && exit 1; exit 7")
        os.write(theirs, b"secret\n")
        assert until(lambda: asking.poll() is not None)
    finally:
        os.dup2(stdin, 0)
        for descriptor in (ours, theirs, stdin):
            os.close(descriptor)
    assert asking.poll() == 7


def test_pausing_stops_the_whole_tree_and_resuming_continues_it(tree):
    leader, pids = tree
    leader.pause()
    assert until(lambda: [state(pid) for pid in pids] == ["T"] * 3)
    leader.resume()
    assert until(lambda: not {"T", "Z", None} & {state(pid) for pid in pids})


@pytest.mark.parametrize("paused", [False, True], ids=["running", "stopped"])
def test_ending_kills_the_whole_tree(tree, paused):
    leader, pids = tree
    if paused:
        leader.pause()
    leader.end()
    assert leader.poll() == -signal.SIGKILL
    assert until(lambda: all(state(pid) in (None, "Z") for pid in pids))


@pytest.mark.parametrize("way", ["end", "check"])
def test_workers_that_have_outlived_their_leader_are_ended_and_nobody_else(tree, program, way):
    leader, pids = tree
    other = program("sleep 600 & wait")
    assert until(lambda: children_of(other.pid))
    os.kill(leader.pid, signal.SIGKILL)
    assert until(lambda: leader.poll() is not None)
    assert [state(pid) for pid in pids[1:]] == ["S", "S"]
    began = time.monotonic()
    if way == "end":
        leader.end()
    else:
        with pytest.raises(ClientProgramError, match="was killed by signal 9"):
            leader.check()
    assert all(state(pid) in (None, "Z") for pid in pids)
    # They hold standard error open, whose end would be waited for.
    assert time.monotonic() - began < 4
    assert [state(pid) for pid in (other.pid, *children_of(other.pid))] == ["S", "S"]


def test_a_program_that_ignores_signals_is_ended_all_the_same(program):
    heard = []
    deaf = program("trap '' TERM INT HUP; echo deaf >&2; while :; do sleep 0.01; done", on_line=heard.append)
    assert until(lambda: heard == ["deaf"])
    deaf.end()
    assert deaf.poll() == -signal.SIGKILL


def test_what_has_ended_can_be_paused_resumed_and_ended_again(program):
    done = program("exit 0")
    done.check()
    done.pause()
    done.resume()
    done.end()
    assert done.poll() == 0


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_after_its_block_a_program_has_ended_in_any_case(fake_program, error):
    argv = [fake_program("sleep 600").path("pg_dump")]
    with contextlib.suppress(*filter(None, [error])), running(argv, env=ENV) as program:
        assert program.poll() is None
        if error is not None:
            raise error
    assert program.poll() == -signal.SIGKILL


def test_a_worker_whose_name_looks_like_the_end_of_a_name_is_found(program, fake_program, tmp_path):
    # /proc/pid/stat puts the name in brackets, and the name may hold some.
    os.mkfifo(tmp_path / "fifo")
    odd = fake_program(f"read _ <>'{tmp_path}/fifo'", programs=["a) S 1 (b"]).path("a) S 1 (b")
    leader = program(f"'{odd}' & wait")
    assert until(lambda: children_of(leader.pid))
    (child,) = children_of(leader.pid)
    assert until(lambda: Path(f"/proc/{child}/comm").read_text() == "a) S 1 (b\n")
    leader.pause()
    assert until(lambda: state(child) == "T")
