"""Whatever is changed in a stored backup: verification says so at both levels, and no restore takes over."""

import contextlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyrage
import pytest

from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.repository.members import runs_of
from airflow_pg_s3.core.repository.repository import read_manifest, read_members
from tests.integration.faults.world import BEFORE, World
from tests.support.fault_tally import TALLY, each
from tests.support.sampling import SEED, TORTURE, sample

FLIPS = 200
RUN = re.compile(r"/\d{6}\.zst(\.age)?$")
# In CI; of these, the restores are tried with some only, as reading is quicker.
SAMPLE = 12
RESTORED = 1 if TORTURE else 10


class Victim:
    """A backup to damage, and another of the same database."""

    def __init__(self, world: World, prefix: str, *, encrypted: bool) -> None:
        self._world = world
        identity = pyrage.x25519.Identity.generate()
        self.identities = [str(identity)] if encrypted else []
        recipients = [str(identity.to_public())] if encrypted else []
        # The large table's data in several runs; all of it in each of the backups' own.
        made = [world.back_up(prefix, full=True, run_bytes=3 << 20, age_recipients=recipients) for _ in range(2)]
        self.uri = made[0].uri
        self.manifest_key = made[0].key
        self.objects, self.others = ({key: self._get(key) for key in self._keys(backup)} for backup in made)
        self._ends = {key: len(data) for key, data in self.objects.items()} | self._ends_of_chunks(made[0])

    def flips(self) -> Iterator[tuple[str, str, bytes]]:
        """Bits over all bytes of all objects that a backup needs, among them the first and the last of each."""
        chance = random.Random(f"{SEED} flips")
        places = [(key, at) for key, end in self._ends.items() for at in (0, end - 1)]
        keys, sizes = list(self._ends), list(self._ends.values())
        while len(places) < FLIPS:
            # Half of them by size, half by object: else the manifest would hardly be hit.
            (key,) = chance.choices(keys, sizes) if chance.random() < 0.5 else [chance.choice(keys)]
            places.append((key, chance.randrange(self._ends[key])))
        for key, at in places:
            data = bytearray(self.objects[key])
            data[at] ^= 1 << chance.randrange(8)
            yield f"bit flipped in byte {at}", key, bytes(data)

    def others_of(self, key: str) -> Iterator[tuple[str, bytes | None]]:
        """What else may be in the place of an object."""
        data, end = self.objects[key], self._ends[key]
        yield "deleted", None
        for size in {0, 1, end // 2, end - 1} - {end}:
            yield f"truncated to {size} bytes", data[:size]
        if not RUN.search(key):  # behind the chunks that a backup refers to, a run may go on
            yield "a byte more", data + b"\0"
        yield "zeros", bytes(len(data))
        for other in self.objects.values():
            if other != data:
                yield "another object of it", other
        for other in self.others.values():
            if other != data:
                yield "an object of another backup", other

    @contextlib.contextmanager
    def damaged(self, changes: dict[str, bytes | None]) -> Iterator[None]:
        try:
            for key, data in changes.items():
                self._put(key, data)
            yield
        finally:
            for key in changes:
                self._put(key, self.objects[key])

    def _keys(self, backup: Any) -> Sequence[str]:
        base = backup.key.rpartition("/")[0]
        return [backup.key, *(f"{base}/{key}" for key in backup.manifest.object_keys())]

    def _ends_of_chunks(self, backup: Any) -> dict[str, int]:
        """Where the last chunk of each run ends: what follows is for the retry of a killed backup alone."""
        stored = read_manifest(self._world.client, backup.uri)
        ends = runs_of(read_members(self._world.client, self._world.bucket, stored))
        return {stored.base + key: end for key, end in ends.items()}

    def _get(self, key: str) -> bytes:
        return self._world.client.get_object(Bucket=self._world.bucket, Key=key)["Body"].read()

    def _put(self, key: str, data: bytes | None) -> None:
        if data is None:
            self._world.client.delete_object(Bucket=self._world.bucket, Key=key)
        else:
            self._world.client.put_object(Bucket=self._world.bucket, Key=key, Body=data)


@pytest.fixture(scope="module", params=sample(["plain", "encrypted"], 1, "corruption"))
def victim(request: pytest.FixtureRequest, world: World) -> Victim:
    made = Victim(world, request.param, encrypted=request.param == "encrypted")
    assert len(made.objects) >= 5
    assert sum("/00000" in key for key in made.objects) >= 2
    return made


@pytest.fixture(scope="module")
def live(world: World) -> Iterator[str]:
    world.cluster.create_database("live and well")
    world.cluster.psql(BEFORE, "live and well")
    yield "live and well"
    world.cluster.drop_database("live and well")


@pytest.fixture
def detect(world: World, victim: Victim, live: str) -> Callable[[str, str, dict[str, bytes | None], bool], None]:
    """(kind, case, changes, whether to restore as well): all must notice."""

    def is_noticed(level: str, changes: dict[str, bytes | None]) -> bool:
        try:
            done = world.verify(
                victim.uri, level=level, server=None if level == "checksum" else world.params("postgres"),
                identities=victim.identities,
            )  # fmt: skip
        except PgS3Error:
            return victim.manifest_key in changes
        return done.verification.outcome == "failed"

    def is_refused() -> bool:
        with contextlib.suppress(PgS3Error):
            world.replace(live, victim.uri, identities=victim.identities)
            return False
        return world.tables(live) == ["before"]

    def all_of(kind: str, case: str, changes: dict[str, bytes | None], restored: bool) -> None:
        with victim.damaged(changes):
            ways = {"checksum": is_noticed("checksum", changes)}
            if restored:
                ways |= {"verification": is_noticed("restore", changes), "restore": is_refused()}
        for way, noticed in ways.items():
            TALLY.count("corruption", kind, f"noticed by {way}" if noticed else f"NOT noticed by {way}")
        TALLY.assert_none("undetected corruptions", [way for way, noticed in ways.items() if not noticed], case)
        if restored:
            TALLY.assert_none("leftovers", set(world.databases_like(f"{live}%")) - {live}, case)

    return all_of


def test_a_flipped_bit_is_noticed(victim: Victim, detect: Callable) -> None:
    def check(case: tuple[int, tuple[str, str, bytes]]) -> None:
        number, (what, key, data) = case
        detect("bit flipped", f"{key}: {what}", {key: data}, number % RESTORED == 0)

    each(enumerate(sample(list(victim.flips()), SAMPLE, "flips")), check)


def test_another_content_is_noticed(victim: Victim, detect: Callable) -> None:
    cases = [(key, what, data) for key in victim.objects for what, data in victim.others_of(key)]

    def check(case: tuple[int, tuple[str, str, bytes | None]]) -> None:
        number, (key, what, data) = case
        kind = "truncated" if what.startswith("truncated") else what
        detect(kind, f"{key}: {what}", {key: data}, number % RESTORED == 0)

    each(enumerate(sample(cases, SAMPLE, "other content")), check)


def test_two_objects_that_have_changed_places_are_noticed(victim: Victim, detect: Callable) -> None:
    keys = list(victim.objects)
    pairs = [(one, other) for number, one in enumerate(keys) for other in keys[:number]]

    def check(case: tuple[int, tuple[str, str]]) -> None:
        number, (one, other) = case
        changes = {one: victim.objects[other], other: victim.objects[one]}
        detect("two swapped", f"{one} and {other} swapped", changes, number % RESTORED == 0)

    each(enumerate(pairs), check)


def test_undamaged_it_is_verified_at_both_levels(world: World, victim: Victim) -> None:
    """Last: what was damaged is whole again, so the tests before did not fail for another reason."""
    for arguments in ({"level": "checksum", "server": None}, {}):
        done = world.verify(victim.uri, identities=victim.identities, **arguments)
        assert done.verification.outcome == "verified"
