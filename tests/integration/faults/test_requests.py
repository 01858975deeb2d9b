"""Every fault of S3 at every request: success, or one clear failure that loses nothing and leaves nothing."""

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import botocore.endpoint
import pytest

from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.repository import verification_record as evidences
from airflow_pg_s3.core.s3 import download
from testkit.fault_proxy import (
    DENIED,
    EXPIRED,
    INTERNAL_ERROR,
    SLOW_DOWN,
    TOO_MANY,
    Corrupt,
    FailLate,
    Fault,
    FaultProxy,
    Reset,
    StaleList,
    Stall,
    Truncate,
    at,
    since,
)
from tests.integration.faults.verbs import WHOLE
from tests.integration.faults.world import World
from tests.support.fault_tally import TALLY, each
from tests.support.sampling import combine, sample

# Of each operation, kind of fault and duration, in CI.
SAMPLE = 1
ATTEMPTS = 2
FAULTS: dict[str, Fault] = {
    "500": INTERNAL_ERROR,
    "503": SLOW_DOWN,
    "429": TOO_MANY,
    "expired": EXPIRED,
    "denied": DENIED,
    "reset before": Reset("before"),
    "reset midway": Reset("midway"),
    "answer lost": Reset("after"),
    "500 after the work": FailLate(),
    "truncated": Truncate(),
    "corrupted": Corrupt(),
    "stalled": Stall(),
    "stale list": StaleList(),
}
DURATIONS = {"once": at, "from then on": since}
# Where a fault can happen; the others can anywhere.
WITH_AN_ANSWER = {
    "GetObject", "ListObjectsV2", "ListMultipartUploads", "DeleteObjects",
}  # fmt: skip
PLACES = {
    "reset midway": WITH_AN_ANSWER,
    "truncated": WITH_AN_ANSWER,
    "stalled": WITH_AN_ANSWER,
    "corrupted": WITH_AN_ANSWER | {"PutObject"},
    "stale list": {"ListObjectsV2", "ListMultipartUploads"},
}


def some_faults(verb: str) -> pytest.MarkDecorator:
    """All of them, or some of them, each once or from then on."""
    cases = combine(FAULTS, DURATIONS, name=f"faults of requests: {verb}")
    return pytest.mark.parametrize(("fault", "duration"), sample(cases, len(FAULTS) // 3, verb))


@pytest.fixture(scope="module")
def faulty(proxy: FaultProxy) -> object:
    """A client through the proxy."""
    # Long enough for a server on a busy machine: an answer that is only slow would be taken for the fault.
    return proxy.client(read_timeout=2, connect_timeout=5, retries={"total_max_attempts": ATTEMPTS})


@pytest.fixture(scope="module")
def shelf(world: World) -> types.SimpleNamespace:
    """Three backups, of which a prune is to delete the one in the middle: the oldest is the newest verified."""
    made = sorted((world.back_up("shelf") for _ in range(3)), key=lambda backup: backup.key)
    assert world.verify(made[0].uri).verification.outcome == "verified"
    doomed = made[1].manifest.backup_id
    stored = set(world.stored("shelf"))
    return types.SimpleNamespace(kept={key for key in stored if doomed not in key})


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries at once: how long the pauses are is not the question here."""
    monkeypatch.setattr(botocore.endpoint, "time", types.SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(evidences, "_PAUSE_SECONDS", 0.001)


@dataclass
class Case:
    """One run with one fault."""

    what: str
    fault: str
    duration: str
    index: int
    proxy: FaultProxy
    error: PgS3Error | None = None

    def __str__(self) -> str:
        return f"{self.what}: {self.fault} {self.duration}, request {self.index}: {self.error!r}"

    def run(self, action: Callable[[], Any]) -> Any:
        """Do it with the fault, which must have happened; any other error than ours fails the test."""
        self.proxy.reset(DURATIONS[self.duration](self.index, FAULTS[self.fault]))
        try:
            result = action()
        except PgS3Error as error:
            self.error = error
            result = None
        assert self.proxy.faults, self
        self.proxy.reset()
        TALLY.count(self.what, self.fault, "clear failure" if self.error else "success")
        return result


@pytest.fixture(scope="module")
def requests() -> dict[str, list[str]]:
    """The requests that each verb makes when nothing goes wrong."""
    return {}


@pytest.fixture
def swept(
    proxy: FaultProxy, requests: dict[str, list[str]], fault: str, duration: str
) -> Callable[..., Iterator[Case]]:
    """(what, a run without faults) → the cases to go through."""

    def cases(what: str, clean: Callable[[], object]) -> Iterator[Case]:
        if what not in requests:
            proxy.reset()
            clean()
            requests[what] = [request.operation for request in proxy.requests]
        places = PLACES.get(fault, set(requests[what]))
        indices = [index for index, operation in enumerate(requests[what]) if operation in places]
        for index in sample(indices, SAMPLE, what, fault, duration):
            yield Case(what, fault, duration, index, proxy)

    return cases


@some_faults("backup")
def test_a_backup(world: World, faulty: object, swept: Callable) -> None:
    def check(case: Case) -> None:
        prefix = world.copy()
        earlier = world.stored(prefix)
        case.run(lambda: world.back_up(prefix, faulty))
        if case.error is not None:
            world.back_up(prefix)
        TALLY.assert_none("false completes", world.false_completes(prefix), case)
        TALLY.assert_none("leftovers", world.leftovers(prefix), case)
        TALLY.assert_none("lost backups", earlier.items() - world.stored(prefix).items(), case)

    each(swept("backup", lambda: world.back_up(world.copy(), faulty)), check)


@some_faults("restore")
def test_a_restore(world: World, new_live: Callable[[], str], faulty: object, swept: Callable) -> None:
    def check(case: Case) -> None:
        live = new_live()
        case.run(lambda: world.replace(live, world.backup.uri, faulty))
        assert world.tables(live) == (["before"] if case.error else WHOLE), case
        if case.error is not None:
            world.replace(live, world.backup.uri)
        assert world.tables(live) == WHOLE, case
        TALLY.assert_none("leftovers", set(world.databases_like(f"{live}%")) - {live}, case)

    each(swept("restore", lambda: world.replace(new_live(), world.backup.uri, faulty)), check)


@some_faults("verification")
def test_a_verification(world: World, shelf: object, faulty: object, swept: Callable) -> None:
    """Of a backup with evidence, which is not lost whatever happens."""
    earlier = world.copy()
    world.verify(world.uri(earlier))

    def check(case: Case) -> None:
        uri = world.uri(world.copy(earlier))
        result = case.run(lambda: world.verify(uri, faulty))
        if result is not None:
            # Bytes that were changed on their way are no more what was backed up than those changed at rest.
            outcomes = {"verified", "could not verify"} | ({"failed"} if case.fault == "corrupted" else set())
            assert result.verification.outcome in outcomes, f"{case}: {result.sentence}"
        recorded = int(result is not None and result.evidence_uri is not None)
        found = world.evidence(uri)
        kept = 0 if found is None else len(found.verifications)
        TALLY.assert_none("lost backups", [] if kept >= 1 + recorded else ["its evidence"], case)
        if result is None or result.verification.outcome != "verified":
            assert world.verify(uri).verification.outcome == "verified", case
        assert world.evidence(uri).is_verified, case
        TALLY.assert_none("leftovers", world.databases_like("%__verify_%"), case)

    each(swept("verification", lambda: world.verify(world.uri(world.copy(earlier)), faulty)), check)


@some_faults("prune")
def test_a_prune(world: World, shelf: types.SimpleNamespace, faulty: object, swept: Callable) -> None:
    def check(case: Case) -> None:
        prefix = world.copy("shelf")
        case.run(lambda: world.prune(prefix, faulty))
        TALLY.assert_none("false completes", world.false_completes(prefix), case)
        TALLY.assert_none("lost backups", shelf.kept - set(world.stored(prefix)), case)
        world.end_sweep(prefix)
        leftovers = [one for pruned in world.prune(prefix) for one in pruned.leftovers]
        # What no list has shown waits until it is too old to be of a backup in progress.
        waiting = {one.backup_id for one in leftovers if one.outcome == "young" and case.fault == "stale list"}
        left = {key for key in set(world.stored(prefix)) - shelf.kept if key.split("/")[1] not in waiting}
        TALLY.assert_none("leftovers", left, case)
        TALLY.assert_none("lost backups", shelf.kept - set(world.stored(prefix)), case)
        assert len(list(world.manifests(prefix))) == 2, case

    each(swept("prune", lambda: world.prune(world.copy("shelf"), faulty)), check)
