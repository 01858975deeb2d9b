"""What is done to the world by a task, and what must be true of the world after it, however it ended."""

from collections.abc import Callable
from typing import Any

from tests.integration.faults.world import ROWS, World
from tests.support.fault_tally import TALLY

WHOLE = ["large", "small"]


class Verb:
    """A verb that is tried again and again, each time on something new.

    :param new_live: makes a live database.
    """

    name: str
    program: str

    def __init__(self, world: World, new_live: Callable[[], str]) -> None:
        self.world = world
        self.new_live = new_live

    def prepare(self) -> dict[str, Any]:
        """Arguments for a `Task`."""
        raise NotImplementedError

    def check(self, given: dict[str, Any], end: str, case: str) -> None:
        """Make sure that what was prepared is as it should be after this end, and that the next run is well."""
        raise NotImplementedError


class Backup(Verb):
    name = "backup"
    program = "pg_dump"

    def prepare(self) -> dict[str, Any]:
        repository = f"s3://{self.world.bucket}/{self.world.copy()}"
        return {"repository": repository, "arguments": self.world.backup_arguments() | {"jobs": 2}}

    def check(self, given: dict[str, Any], end: str, case: str) -> None:
        prefix = given["repository"].rpartition("/")[2]
        made = len(list(self.world.manifests(prefix))) - 1
        TALLY.assert_none("false completes", self.world.false_completes(prefix), case)
        TALLY.assert_none("lost backups", ["the earlier one"] if made < (end == "success") else [], case)
        TALLY.assert_none("false completes", ["after a failure"] if made and end == "clear failure" else [], case)
        if end != "success":
            self.world.back_up(prefix)
        TALLY.assert_none("leftovers", self.world.leftovers(prefix), case)


class Restore(Verb):
    name = "restore"
    program = "pg_restore"

    def prepare(self) -> dict[str, Any]:
        arguments = self.world.replace_arguments(self.new_live(), self.world.backup.uri)
        return {"arguments": arguments | {"jobs": 2}}

    def check(self, given: dict[str, Any], end: str, case: str) -> None:
        live = given["arguments"]["target"].database
        assert self.world.tables(live) in ([WHOLE] if end == "success" else [["before"], WHOLE]), case
        if end != "success":
            self.world.replace(live, self.world.backup.uri)
        assert self.world.tables(live) == WHOLE, case
        assert self.world.cluster.psql("select count(*) from large", live) == f"{ROWS}\n", case
        TALLY.assert_none("leftovers", set(self.world.databases_like(f"{live}%")) - {live}, case)


class Verification(Verb):
    name = "verification"
    program = "pg_restore"

    def prepare(self) -> dict[str, Any]:
        return {"arguments": self.world.verify_arguments(self.world.uri(self.world.copy())) | {"jobs": 2}}

    def check(self, given: dict[str, Any], end: str, case: str) -> None:
        uri = given["arguments"]["backup"]
        recorded = self.world.evidence(uri)
        # What happens to processes says nothing of the backup.
        for found in recorded.verifications if recorded else []:
            assert found.outcome != "failed", f"{case}: {found.differences}"
        assert self.world.verify(uri).verification.outcome == "verified", case
        TALLY.assert_none("leftovers", self.world.databases_like("%__verify_%"), case)


VERBS = {verb.name: verb for verb in (Backup, Restore, Verification)}
