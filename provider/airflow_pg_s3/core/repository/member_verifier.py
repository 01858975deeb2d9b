"""The proof that the bytes of a member in a pack are those that were backed up, as they go by."""

from __future__ import annotations

import hashlib

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.postgres.archive.toc import LargeObjectNames
from airflow_pg_s3.core.repository.members import Member


class MemberVerifier:
    """Takes a packed member's bytes in order, and compares them with what is recorded of it."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._sha256 = hashlib.sha256()
        self._bytes = 0
        self._names = LargeObjectNames() if member.name.endswith(".toc") else None

    def update(self, chunk: bytes) -> None:
        """Take the next bytes.

        :raises IntegrityError: there are more than were backed up, or they name no large objects, as they should.
        """
        self._sha256.update(chunk)
        self._bytes += len(chunk)
        # Whatever a damaged stream would still unpack to.
        if self._bytes > self._member.raw_bytes:
            raise IntegrityError(f"is longer than the {self._member.raw_bytes} bytes backed up")
        if self._names is not None:
            self._names.update(chunk)

    def finish(self) -> None:
        """Say that all bytes have come.

        :raises IntegrityError: they are not those that were backed up.
        """
        if self._names is not None:
            self._names.finish()
        sha256 = self._sha256.hexdigest()
        if (self._bytes, sha256) != (self._member.raw_bytes, self._member.sha256):
            raise IntegrityError(
                f"has {self._bytes} bytes with SHA-256 {sha256}, but {self._member.raw_bytes} with "
                f"{self._member.sha256} were backed up"
            )


def described(member: Member) -> str:
    """Name a member for people."""
    if member.table is None:
        return f"the archive's member {member.name}"
    return f"the data of {member.table.schema_name}.{member.table.name} ({member.name})"
