"""A chunk that rots harms every backup that refers to it: it is found, they are named; it heals."""

import logging
import uuid

import pytest

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.repository.repository import read_members
from tests.integration.faults.world import DATABASE, World


@pytest.fixture
def rotten(world: World) -> tuple[list, str]:
    """Three backups of one database, of which the last two refer to a chunk that has rotted since; its run."""
    prefix = uuid.uuid4().hex
    unharmed = world.back_up(prefix)
    made = [world.back_up(prefix, full=True), world.back_up(prefix)]
    manifest = made[1].manifest
    assert manifest.new_chunks == 0
    assert list(manifest.runs) == [made[0].manifest.backup_id]
    (stored,) = [one for one in world.manifests(prefix) if one.manifest == manifest]
    large = next(member for member in read_members(world.client, world.bucket, stored) if not member.packed)
    chunk = list(large.chunks)[-1]
    key = stored.base + chunk.key
    body = bytearray(world.client.get_object(Bucket=world.bucket, Key=key)["Body"].read())
    body[chunk.offset + chunk.stored_bytes // 2] ^= 1
    world.client.put_object(Bucket=world.bucket, Key=key, Body=bytes(body))
    return [unharmed, *made], chunk.key


def test_it_is_found_and_named_with_every_backup_that_refers_to_it(world: World, rotten):
    (unharmed, first, second), run = rotten
    found = world.verify(second.uri, level="checksum", server=None).verification
    assert found.outcome == "failed"
    damaged, other = found.differences
    assert (damaged.kind, damaged.name) == ("object", run)
    assert "the data of public.large" in damaged.detail
    assert f"of {run}" in damaged.detail
    assert (other.kind, other.name) == ("backup", first.manifest.backup_id)
    assert world.verify(unharmed.uri, level="checksum", server=None).verification.outcome == "verified"


def test_no_restore_gives_it_to_postgresql(world: World, rotten):
    (_, _, second), run = rotten
    live = f"live {uuid.uuid4().hex[:8]}"
    world.cluster.create_database(live)
    try:
        with pytest.raises(IntegrityError, match=f"is damaged at byte .* of {run}"):
            world.replace(live, second.uri)
        assert world.databases_like(f"{live}%") == [live]
    finally:
        world.cluster.drop_database(live)


def test_the_next_full_backup_heals_and_so_does_the_one_after_a_verification(
    world: World, rotten, caplog: pytest.LogCaptureFixture
):
    (_, _, second), _ = rotten
    prefix = second.key.partition("/")[0]
    full = world.back_up(prefix, full=True)
    assert world.verify(full.uri, level="checksum", server=None).verification.outcome == "verified"
    world.client.delete_object(Bucket=world.bucket, Key=full.key)
    assert world.back_up(prefix).manifest.new_chunks == 0
    (newest, *_) = world.manifests(prefix)
    assert world.verify(world.uri_of(newest), level="checksum", server=None).verification.outcome == "failed"
    with caplog.at_level(logging.INFO):
        healed = world.back_up(prefix)
    assert "all is stored anew, as the last verification has found objects damaged" in caplog.text
    assert healed.manifest.new_chunks == healed.manifest.chunks
    # What does not refer to anything of before goes on as ever, verified or not.
    assert world.back_up(prefix).manifest.new_chunks == 0
    assert world.verify(healed.uri).verification.outcome == "verified"
    assert healed.manifest.database == DATABASE
