"""No complete backup ever lacks a run that it refers to, and nothing is kept for ever.

The code of backups and prunes runs on a store in memory, request by request, in every order; programs are killed
anywhere or paused, marks grow old, sessions are cut off, lists lag. Then the protocol is broken on purpose, and
each time that is found.
"""

import functools
import logging
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_pg_s3.core.backup import abandoned, abandoned_chunks
from airflow_pg_s3.core.backup.abandoned import remove_abandoned, remove_all_but_one
from airflow_pg_s3.core.backup.abandoned_chunks import AbandonedChunks, read_abandoned
from airflow_pg_s3.core.backup.chunk_store import ChunkStore, RunWriter
from airflow_pg_s3.core.backup.earlier_chunks import read_earlier
from airflow_pg_s3.core.backup.known_chunks import KnownChunks
from airflow_pg_s3.core.backup.staged_backup import StagedBackup
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.repository import manifest as manifests
from airflow_pg_s3.core.repository import presence, sweep_mark
from airflow_pg_s3.core.repository.manifest import parse_run_key, ranges_of
from airflow_pg_s3.core.repository.members import Chunks, Member, runs_of
from airflow_pg_s3.core.repository.presence import Presence
from airflow_pg_s3.core.repository.repository import BEGUN, SETTLED, Begun, Repository
from airflow_pg_s3.core.repository.sweep_mark import SWEEPING, SweepMark
from airflow_pg_s3.core.retention import decisions, inventory, needed_runs, prune, sweep
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from airflow_pg_s3.core.retention.prune import PruneRequest
from airflow_pg_s3.core.retention.sweep import Sweep
from tests.support.sampling import SEED, TORTURE
from tests.support.simulated_s3 import Client, Program, Request, Store, Stored, program_at_work
from tests.support.stored_backups import id_at, manifest_of

URI = "s3://bucket/p"
BASE = "p/shop/"
NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)
ORPHAN_AGE = timedelta(hours=48)
JUMPS = (timedelta(minutes=20), timedelta(minutes=40), timedelta(hours=49))
"""Half of a mark's life, its life and the age of orphans are over."""
LOG = logging.getLogger("protocol")
LOG.disabled = True


class Broken(AssertionError):
    """What must never be."""


@dataclass(frozen=True)
class Faults:
    """How many of each there may be.

    :param jumps: of time.
    :param cuts: of sessions of backups.
    :param lag: lists do not show what is new, for some time; of a backup, at the longest until it has ended.
    :param lag_of_begun: neither do they show `begun`.
    :param skew: how far the worker's clock is ahead of S3's.
    """

    kills: int = 0
    jumps: int = 0
    cuts: int = 0
    lag: bool = False
    lag_of_begun: bool = False
    skew: timedelta = timedelta(0)


class World:
    """A repository with backups that refer to each other, and programs at work on it.

    :param programs: what they do, by name.
    """

    def __init__(self, programs: dict[str, Callable[["World", Program], None]], faults: Faults) -> None:
        self.sessions: set[str] = set()
        """Ids of the backups whose locks are held."""
        self._faults = faults
        self._used = {"kill": 0, "jump": 0, "cut": 0}
        self._changes = 0
        self.required: dict[str, set[str]] = {}
        """What each complete backup needs, by the keys of their manifests."""
        self._lacking: str | None = None
        self.skew = faults.skew
        Clock.world = self
        self._lags = False
        self.store = Store(NOW, self._changed)
        for key, stored in furnished().items():
            self.store.put(key, stored.body)
        self._lags = faults.lag
        self.store.now += timedelta(hours=24)
        self.programs = [
            Program(name, self.store, lambda program, run=run: run(self, program), is_hasty)
            for name, run in programs.items()
        ]
        self._waiting: dict[str, int] = {}
        for program in self.programs:
            program.start()
            self._note_waiting(program)

    # -- what may happen next ---------------------------------------------------------------------------------

    def options(self) -> list[tuple[str, str]]:
        """What may happen next: who does it, and what it is."""
        alive = [program for program in self.programs if not program.is_over]
        found = [("go", program.name) for program in alive if self._may_go(program)]
        if not alive:
            return []
        if self._used["kill"] < self._faults.kills:
            found += [("kill", program.name) for program in alive]
        if self._used["cut"] < self._faults.cuts:
            found += [("cut", backup_id) for backup_id in sorted(self.sessions)]
        if self._used["jump"] < self._faults.jumps or not found:
            found += [("jump", str(number)) for number in range(len(JUMPS))]
        if self._lags:
            found += [("appear", "")]
        return found

    def choose(self, option: tuple[str, str]) -> None:
        what, who = option
        if what in self._used:
            self._used[what] += 1
        if what == "cut":
            self.sessions.discard(who)
        elif what == "jump":
            self.store.now += JUMPS[int(who)]
            self._changes += 1
        elif what == "appear":
            self._lags = False
            self.store.unlisted.clear()
        else:
            (program,) = (one for one in self.programs if one.name == who)
            program.go() if what == "go" else program.kill()
            self._note_waiting(program)
            if program.is_over and who in ID and not self._faults.lag_of_begun:
                self.store.unlisted -= {key for key in self.store.unlisted if ID[who] in key}
        if self._lacking is not None:
            raise Broken(self._lacking)

    def state(self) -> object:
        """Equal for two worlds that can only go on alike."""
        return (
            tuple((program.history, program.is_over) for program in self.programs),
            frozenset(self.store.objects.items()),
            frozenset(self.store.unlisted),
            frozenset(self.sessions),
            self.store.now,
            self._lags,
            tuple(self._used.values()),
        )

    def _may_go(self, program: Program) -> bool:
        """Whether it has something to do: who waits for a mark looks again when something has changed."""
        return self._waiting.get(program.name) != self._changes

    def _note_waiting(self, program: Program) -> None:
        self._waiting.pop(program.name, None)
        if program.waits_for is not None and program.waits_for.operation == "wait":
            self._waiting[program.name] = self._changes

    # -- what must never be -----------------------------------------------------------------------------------

    def _changed(self, key: str) -> None:
        stored = self.store.objects.get(key)
        if key == BASE + SWEEPING:
            self._changes += 1
        if self._lags and stored is not None and (self._faults.lag_of_begun or not key.endswith(f"/{BEGUN}")):
            self.store.unlisted.add(key)
        if re.fullmatch(rf"{BASE}[^/]*\.json", key):
            self.required.pop(key, None)
            if stored is not None:
                manifest = manifests.parse(stored.body, where=key)
                self.required[key] = {BASE + name for name in manifest.object_keys()}
        # Not raised here, where a program would take it for an error of its own.
        self._lacking = self._lacking or self._find_lacking(only_settled=self._faults.cuts > 0)

    def _find_lacking(self, *, only_settled: bool) -> str | None:
        """Look for a backup that lacks something.

        :param only_settled: the others may yet be taken back, as a session was cut off.
        """
        for key, required in self.required.items():
            is_settled = f"{key.removesuffix('.json')}/{SETTLED}" in self.store.objects
            if (is_settled or not only_settled) and not required <= self.store.objects.keys():
                return f"{key} lacks {sorted(required - self.store.objects.keys())}"
        return None

    def finish(self) -> None:
        """Let nobody but a prune be at work, twice, and look for what it leaves."""
        self._lags, self.skew = False, timedelta(0)
        self.store.unlisted.clear()
        self.sessions.clear()
        for _ in range(2):
            self.store.now += timedelta(hours=49)
            do_prune(Client(self.store))
        if lacking := self._find_lacking(only_settled=False):
            raise Broken(lacking)
        complete = {key.removesuffix(".json") for key in self.required}
        needed = set().union(*self.required.values())
        for key in self.store.objects:
            folder, _, name = key.removeprefix(BASE).partition("/")
            if key in self.required or BASE + folder in complete or key in needed:
                continue
            is_mark = name in (BEGUN, SETTLED, "pruned") and any(
                one.startswith(f"{BASE}{folder}/") for one in needed
            )
            if not is_mark:
                raise Broken(f"{key} is kept for ever")

    def close(self) -> None:
        for program in self.programs:
            program.kill()


class Clock:
    """The worker's."""

    world: World

    @classmethod
    def now(cls, _: object) -> datetime:
        return cls.world.store.now + cls.world.skew


@functools.cache
def furnished() -> dict[str, Stored]:
    """What there is at first: of A, which was pruned, x, as B refers to it; and C, which leaves something out."""
    store = Store(NOW)
    world = SimpleNamespace(store=store, sessions=set())
    for letter, content, options in (("A", "wx", []), ("B", "xy", []), ("C", "v", ["--exclude-table-data"])):
        make(world, Client(store), letter, content, None, left_out_by=options)
    store.put(f"{BASE}{ID['A']}/pruned", b"{}")
    store.put(f"{BASE}{ID['A']}/{BEGUN}", b'{"instance": "1/1"}')  # as it could not be deleted
    for name in (".json", "/members.json.zst", "/pack-0001.tar.zst", "/000001.zst"):
        store.delete(f"{BASE}{ID['A']}{name}")
    return store.objects


def is_hasty(request: Request) -> bool:
    """What is sent at once after a look that allows it, or is refused by S3, as it was signed too long ago."""
    is_manifest = re.fullmatch(rf"{BASE}[^/]*\.json", request.key) is not None
    return request.operation.startswith("Delete") or (request.operation == "PutObject" and is_manifest)


PARSE = functools.cache(manifests.parse)  # the same again and again


# -- programs -----------------------------------------------------------------------------------------------------

ID = {letter: id_at(NOW + timedelta(hours=number)) for number, letter in enumerate("ABCDEF")}


class Cancel:
    """An event that nobody sets; whoever waits for it waits for others to do something."""

    def __init__(self, program: Program | None) -> None:
        self._program = program

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        assert self._program is not None
        self._program.wait()
        return False


def make(
    world: World,
    client: Any,
    letter: str,
    content: str,
    program: Program | None,
    *,
    full: bool = False,
    left_out_by: Sequence[str] = (),
) -> None:
    """Make a backup of some chunks, each of which is a letter, with all that it does on S3."""
    repository = Repository(client, URI)
    request = SimpleNamespace(
        full=full,
        full_every=timedelta(days=30),
        age_recipients=(),
        source=SimpleNamespace(database="shop", application_name=lambda name: name),
        s3_extra_args={},
    )
    facts = SimpleNamespace(instance="1/1", now=NOW + timedelta(days=1))
    killed = remove_all_but_one(repository, request, world, facts, LOG)
    backup_id = ID[letter]
    world.sessions.add(backup_id)
    begun = Begun(backup_id=backup_id, database="shop", instance="1/1")
    try:
        with StagedBackup(repository, begun, {}, cancel=Cancel(program), log=LOG) as staged:
            staged.wait_for_sweep()
            taken = read_abandoned(repository, killed, {}, Cancel(program), LOG)
            known = read_earlier(request, repository, facts.now, LOG).known
            writer = RunWriter(store_of(client, staged.folder, taken, known))
            chunks = Chunks()
            for name in content:
                chunks.append(writer.write(memoryview(name.encode())))
            pack = f"{backup_id}/pack-0001.tar.zst"
            world.store.put(BASE + pack, b"toc!")
            members = [
                Member(name="1.dat", raw_bytes=len(content), chunks=chunks),
                Member(name="toc.dat", raw_bytes=4, pack=pack, sha256="0" * 64),
            ]
            runs = runs_of(members)
            manifest = manifest_of(
                "shop",
                backup_id,
                dump={"pg_dump_version": "18.1", "options": [], "jobs": 1, "left_out_by": left_out_by},
                packs=[{"key": pack, "stored_bytes": 4}],
                members=staged.store_members(members, runs),
                runs=numbers_of(runs),
            )
            confirm_session(world, backup_id)
            staged.commit(manifest)
            try:
                confirm_session(world, backup_id)
            except PgS3Error:
                staged.retract()
                raise
        if killed is not None:
            remove_abandoned(repository, killed, LOG)
    finally:
        world.sessions.discard(backup_id)


def store_of(client: Any, folder: str, taken: AbandonedChunks | None, known: KnownChunks) -> ChunkStore:
    """Store each chunk as it is, and in a run of its own."""

    def store(key: str, body: bytes) -> None:
        client.put_object(Bucket="bucket", Key=key, Body=body)

    uploader, encoder = SimpleNamespace(store=store), SimpleNamespace(recipients=(), for_chunks=lambda: bytes)
    return ChunkStore(uploader, encoder, known, folder=folder, abandoned=taken, run_bytes=1)


def numbers_of(runs: Iterable[str]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[int]] = {}
    for backup_id, number in filter(None, map(parse_run_key, runs)):
        found.setdefault(backup_id, []).append(number)
    return {backup_id: ranges_of(numbers) for backup_id, numbers in found.items()}


def confirm_session(world: World, backup_id: str) -> None:
    if backup_id not in world.sessions:
        raise PgS3Error("the session is gone")


def do_prune(client: Any) -> None:
    request = PruneRequest(retention=RetentionPolicy(keep_last=1), database="shop", orphan_age=ORPHAN_AGE)
    prune.prune(request, Repository(client, URI), cancel=Cancel(None), log=LOG)


def a_backup(letter: str, content: str, *, full: bool = False) -> Callable[[World, Program], None]:
    return lambda world, program: make(world, program.client, letter, content, program, full=full)


def a_prune(world: World, program: Program) -> None:
    do_prune(program.client)


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a program nothing happens at the same time, and nothing by chance."""
    monkeypatch.setattr(manifests, "parse", PARSE)
    for module in (abandoned_chunks, needed_runs, prune, decisions, sweep):
        monkeypatch.setattr(module, "in_parallel", lambda work, items, **_: map(work, items))
    monkeypatch.setattr(sweep_mark, "secrets", SimpleNamespace(token_hex=lambda _: program_at_work()))
    monkeypatch.setattr(abandoned, "is_alive", lambda world, backup_id, _: backup_id in world.sessions)
    monkeypatch.setattr(inventory, "datetime", Clock)
    # None renews `begun`: what takes long is taken for abandoned, which is worse than what happens.
    silent = SimpleNamespace(start=lambda: None, is_alive=lambda: False, set=lambda: None)
    monkeypatch.setattr(presence, "threading", SimpleNamespace(Event=lambda: silent, Thread=lambda **_: silent))


# -- searches -----------------------------------------------------------------------------------------------------

Programs = dict[str, Callable[[World, Program], None]]
Step = Callable[[World], None]


def search(programs: Programs, faults: Faults) -> int:
    """Go through everything that can happen; how many states there are.

    :raises Broken: something is as it must never be.
    """
    seen: set[object] = set()
    paths: list[list[tuple[str, str]]] = [[]]
    while paths:
        path = paths.pop()
        world = World(programs, faults)
        try:
            for option in path:
                world.choose(option)
            while options := world.options():
                state = world.state()
                if state in seen:
                    break
                seen.add(state)
                paths += [[*path, option] for option in options[1:]]
                path.append(options[0])
                world.choose(options[0])
            else:
                if (end := frozenset(world.store.objects.items())) not in seen:
                    seen.add(end)
                    world.finish()
        except Broken as error:
            raise Broken(f"{error}, after {' '.join(':'.join(option) for option in path)}") from None
        finally:
            world.close()
    return len(seen)


def try_at_random(
    programs: Programs, faults: Faults, count: int, seed: str = SEED, begin: Sequence[Step] = ()
) -> None:
    """Let some of it happen; raises as `search`.

    :param begin: what happens first.
    """
    chance = random.Random(f"{seed} {sorted(programs)} {faults}")
    for _ in range(count):
        path = []
        world = World(programs, faults)
        try:
            for step in begin:
                step(world)
            while options := world.options():
                # Faults are rare beside requests, and time passes now and then.
                weights = [
                    8.0 if what == "go" else 1.0 / len(JUMPS) if what == "jump" else 1.0 for what, _ in options
                ]
                path += chance.choices(options, weights)
                world.choose(path[-1])
            world.finish()
        except Broken as error:
            raise Broken(f"{error}, after {' '.join(':'.join(option) for option in path)}") from None
        finally:
            world.close()


ONE_OF_EACH: Programs = {"D": a_backup("D", "xyz"), "prune": a_prune}
TWO_BACKUPS: Programs = ONE_OF_EACH | {"E": a_backup("E", "xzq")}
TWO_OF_EACH: Programs = TWO_BACKUPS | {"another prune": a_prune}
SKEW = timedelta(days=3)
KINDS = {
    "nothing": Faults(),
    "a kill": Faults(kills=1),
    "a cut": Faults(cuts=1),
    "lists that lag": Faults(lag=True),
    "pauses": Faults(jumps=2),
    "a clock that is behind": Faults(jumps=2, skew=-SKEW),
    "a clock that is ahead": Faults(jumps=2, skew=SKEW),
    "all of it": Faults(kills=1, jumps=2, lag=True),
    "a kill, a cut and pauses": Faults(kills=1, cuts=1, jumps=2),
}


def test_the_programs_do_what_is_looked_for() -> None:
    """The backup refers to a run of a deleted backup, and to one of a backup that the prune deletes."""
    alone = World(ONE_OF_EACH, Faults())
    while ("go", "D") in alone.options():
        alone.choose(("go", "D"))
    needed = {key.split("/")[2] for key in alone.required[f"{BASE}{ID['D']}.json"] if re.search("/0", key)}
    assert needed == {ID["A"], ID["B"], ID["D"]}
    alone.close()


def test_a_backup_copies_what_one_that_was_killed_has_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what that one had copied of another; and nothing is left of either."""
    stored: list[str] = []
    put_object = Client.put_object

    def note(client: Client, **arguments: Any) -> Any:
        stored.append(arguments["Key"].removeprefix(BASE))
        return put_object(client, **arguments)

    monkeypatch.setattr(Client, "put_object", note)
    programs = {letter: a_backup(letter, "xyzq") for letter in "DEF"}
    world = World(programs, Faults(kills=2))
    for letter in "DE":
        until(letter, "PutObject", "members")(world)
        world.choose(("kill", letter))
    until("F")(world)
    # Of D's two runs, E was killed when it had copied both.
    assert [key for key in stored if parse_run_key(key)] == [f"{ID['D']}/00000{number}.zst" for number in (1, 2)]
    assert world.required[f"{BASE}{ID['F']}.json"] >= {f"{BASE}{ID['F']}/00000{number}.zst" for number in (1, 2)}
    assert not [key for key in world.store.objects if key.startswith((f"{BASE}{ID['D']}", f"{BASE}{ID['E']}"))]
    world.close()


@pytest.mark.skipif(not TORTURE, reason="goes through some 100,000 states: make torture")
@pytest.mark.parametrize("faults", [Faults(kills=1), Faults(cuts=1), Faults(lag=True), Faults(jumps=1)], ids=str)
def test_whatever_one_backup_and_one_prune_meet(faults: Faults) -> None:
    assert search(ONE_OF_EACH, faults) > 5000


def test_every_order_of_one_backup_and_one_prune() -> None:
    assert search(ONE_OF_EACH, Faults()) > 1000


@pytest.mark.parametrize("kind", KINDS)
def test_several_backups_and_prunes_at_random(kind: str) -> None:
    for programs in (ONE_OF_EACH, TWO_BACKUPS, TWO_OF_EACH):
        try_at_random(programs, KINDS[kind], 20000 if TORTURE else 40)


# -- what the protocol is for -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "name", "instead", "faults"),
    [
        (Presence, "wait_for_sweep", lambda _: None, Faults(jumps=1)),
        (Sweep, "_unlisted", lambda *_: set(), Faults()),
        (Repository, "missing_objects", lambda *_: [], Faults(jumps=1)),
        (Repository, "is_settled", lambda *_: False, Faults()),
    ],
    ids=["no look for a sweep", "no look for backups", "no check before the commit", "any begun is abandoned"],
)
def test_without_any_of_its_parts_a_backup_lacks_something(
    monkeypatch: pytest.MonkeyPatch, broken: type, name: str, instead: Callable[..., object], faults: Faults
) -> None:
    monkeypatch.setattr(broken, name, instead)
    with pytest.raises(Broken, match="lacks"):
        try_at_random(ONE_OF_EACH, faults, 3000, seed="1")


def until(name: str, operation: str = "the end", part: str = "") -> Step:
    """Let a program go on until it asks for something, by a part of the key; or until it waits for another."""

    def go(world: World) -> None:
        (program,) = (one for one in world.programs if one.name == name)
        while ("go", name) in world.options():
            request = program.waits_for
            assert request is not None
            if request.operation == operation and part in request.key:
                return
            world.choose(("go", name))

    return go


def let(what: str, who: str) -> Step:
    return lambda world: world.choose((what, who))


AN_HOUR_OF_PAUSE, DAYS_OF_PAUSE = let("jump", "1"), let("jump", "2")
MANIFEST = ".json"
IS_SETTLED = Repository.is_settled


@pytest.mark.parametrize(
    ("broken", "name", "instead", "steps"),
    [
        (
            SweepMark,
            "confirm",
            lambda _: None,
            [
                until("D", "PutObject", "members"),
                DAYS_OF_PAUSE,
                until("prune", "PutObject", SWEEPING),
                until("prune", "ListObjectsV2", ID["A"]),
                AN_HOUR_OF_PAUSE,
                until("D", "PutObject", f"{ID['D']}{MANIFEST}"),
            ],
        ),
        (
            Presence,
            "is_young",
            lambda _: True,
            [
                until("D", "PutObject", "members"),
                until("D", "GetObject", SWEEPING),
                DAYS_OF_PAUSE,
                until("D", "PutObject", f"{ID['D']}{MANIFEST}"),
            ],
        ),
        (
            Repository,
            "is_settled",
            lambda *of: program_at_work() == "E" or IS_SETTLED(*of),
            [
                until("D", "PutObject", f"{ID['D']}{MANIFEST}"),
                let("cut", ID["D"]),
                until("F", "DeleteObjects", ID["D"]),
                let("go", "D"),
                until("E", "PutObject", f"{ID['E']}{MANIFEST}"),
                until("F", "PutObject", "begun"),
            ],
        ),
        (
            AbandonedChunks,
            "_copy",
            lambda _, key, to: key,
            [
                until("D", "PutObject", "members"),
                let("cut", ID["D"]),
                until("E", "PutObject", f"{ID['E']}{MANIFEST}"),
                until("D"),
            ],
        ),
    ],
    ids=[
        "a sweep that was paused",
        "a backup that was paused",
        "a backup that is taken back",
        "a reference to what was abandoned",
    ],
)
def test_rare_moments(
    monkeypatch: pytest.MonkeyPatch, broken: type, name: str, instead: Callable[..., object], steps: list[Step]
) -> None:
    """With the protocol as it is nothing is lost; without a part of it, something is."""
    # Which removes at once what killed ones have left, as nothing of it serves.
    programs = TWO_BACKUPS | {"F": a_backup("F", "xyz", full=True)}
    ends = [until("prune"), until("D"), until("E"), until("F")]

    def play() -> None:
        world = World(programs, Faults(jumps=2, cuts=1))
        for step in [*steps, *ends]:
            step(world)
        world.close()

    play()
    monkeypatch.setattr(broken, name, instead)
    with pytest.raises(Broken, match="lacks"):
        play()


# The one that is cut off lives on until it looks for its session.
ABANDONED = {
    end: [until("D", "PutObject", "members"), let(end, who)] for end, who in (("kill", "D"), ("cut", ID["D"]))
}
REPEATED = Faults(kills=2, cuts=2, jumps=2)


@pytest.mark.parametrize("end", ABANDONED)
def test_backups_of_what_was_abandoned_at_random(end: str) -> None:
    try_at_random(TWO_OF_EACH, REPEATED, 20000 if TORTURE else 100, begin=ABANDONED[end])


def test_lists_that_hide_a_backup_in_progress_are_not_safe() -> None:
    """What docs/reliability.md says that nobody can rely on: all else may be late in lists."""
    with pytest.raises(Broken, match="lacks"):
        try_at_random(ONE_OF_EACH, Faults(lag=True, lag_of_begun=True), 3000, seed="1")
