"""Work on lanes: largest first, nothing before what it needs, and one error ends all."""

import graphlib
import threading

import pytest

from airflow_pg_s3.core.restore.load.lanes import Lanes, Task

SECONDS = 60


class Resource:
    def __init__(self) -> None:
        self.aborted = threading.Event()
        self.is_closed = False

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        self.is_closed = True


class Log:
    """What was done, in this order."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.resources: list[Resource] = []

    def open(self) -> Resource:
        self.resources.append(Resource())
        return self.resources[-1]

    def task(self, key: object, size: int = 1, after: tuple = (), work=None) -> Task[Resource]:
        def do(resource: Resource) -> None:
            if work is not None:
                work(resource)
            self.done.append(key)

        return Task(key=key, size=size, work=do, after=after)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


def poll() -> None:
    """See nothing."""


def test_the_largest_that_can_be_done_is_done_first(log, stop):
    tasks = [
        log.task("small", 1),
        log.task("large", 3),
        log.task("middle", 2),
        log.task("index of large", 3, after=("large",)),
        log.task("index of small", 1, after=("small", "not a task of ours")),
    ]
    Lanes(1, log.open, stop=stop).run(tasks, poll=poll)
    assert log.done == ["large", "index of large", "middle", "small", "index of small"]
    assert [resource.is_closed for resource in log.resources] == [True]
    assert not stop.is_set()


def test_there_are_as_many_at_work_as_there_are_lanes(log, stop):
    together = threading.Barrier(3)

    def meet(_):
        together.wait(SECONDS)

    Lanes(3, log.open, stop=stop).run([log.task(n, work=meet) for n in range(6)], poll=poll)
    assert sorted(log.done) == list(range(6))
    assert len(log.resources) == 3


def test_a_lane_that_has_nothing_to_do_yet_waits_for_another(log, stop):
    waiting = threading.Event()
    tasks = [log.task("first", work=lambda _: waiting.wait(0.2)), log.task("second", after=("first",))]
    Lanes(2, log.open, stop=stop).run(tasks, poll=poll)
    assert log.done == ["first", "second"]


def test_the_first_error_ends_all_and_is_raised(log, stop):
    begun = threading.Event()

    def fail(_):
        assert begun.wait(SECONDS)
        raise ValueError("no")

    def be_aborted(resource):
        begun.set()
        assert resource.aborted.wait(SECONDS)
        raise OSError("the connection is gone")

    tasks = [log.task("bad", 9, work=fail), log.task("good", 8, work=be_aborted), log.task("never", 1)]
    with pytest.raises(ValueError, match="no"):
        Lanes(2, log.open, stop=stop).run(tasks, poll=poll)
    assert log.done == []
    assert stop.is_set()
    assert all(resource.is_closed for resource in log.resources)


def test_what_the_caller_raises_ends_all(log, stop):
    begun = threading.Event()

    def be_aborted(resource):
        begun.set()
        assert resource.aborted.wait(SECONDS)

    def poll_until_begun() -> None:
        if begun.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Lanes(1, log.open, stop=stop).run(
            [log.task("one", work=be_aborted), log.task("two")], poll=poll_until_begun
        )
    assert stop.is_set()
    assert log.done == ["one"]


def test_a_resource_that_cannot_be_opened_ends_all(log, stop):
    def refuse() -> Resource:
        raise OSError("no connection")

    with pytest.raises(OSError, match="no connection"):
        Lanes(2, refuse, stop=stop).run([log.task(n) for n in range(3)], poll=poll)
    assert log.done == []


def test_lanes_that_run_end_where_another_cannot_be_started(log, stop, monkeypatch):
    start, started = threading.Thread.start, []

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    tasks = [log.task(n, work=lambda resource: resource.aborted.wait(SECONDS)) for n in range(9)]
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Lanes(3, log.open, stop=stop).run(tasks, poll=poll)
    assert stop.is_set()
    assert not any(thread.is_alive() for thread in started)


def test_tasks_that_wait_for_one_another_are_an_error(log, stop):
    tasks = [log.task("a", after=("b",)), log.task("b", after=("a",)), log.task("c")]
    with pytest.raises(graphlib.CycleError):
        Lanes(2, log.open, stop=stop).run(tasks, poll=poll)
    assert log.resources == []


def test_nothing_to_do_is_done(log, stop):
    Lanes(2, log.open, stop=stop).run([], poll=poll)
    assert log.resources == []
