"""What an examination has found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.errors import Cancelled, PgS3Error
from airflow_pg_s3.core.postgres.errors import server_error

Status = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    :param status: ``failure`` is what would make a backup fail; ``warning`` what will matter another day.
    :param found: what there is, or what is wrong.
    :param advice: what to do; empty where `found` says it.
    """

    check: str
    status: Status
    found: str
    advice: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """The same in plain values."""
        return {"check": self.check, "status": self.status, "found": self.found, "advice": self.advice}


def failures(findings: Sequence[Finding]) -> list[Finding]:
    """Return those that would make a backup fail."""
    return [finding for finding in findings if finding.status == "failure"]


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Lay findings out in lines: status, check, what was found, and below it what to do."""
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        status = finding.status if finding.status == "ok" else finding.status.upper()
        yield f"{status:7}  {finding.check:{width}}  {finding.found}"
        if finding.advice:
            yield f"{'':7}  {'':{width}}  -> {finding.advice}"


class Findings(list[Finding]):
    """What was found so far, in the order in which it was looked at."""

    def ok(self, check: str, found: str) -> None:
        """Note that something is as it should be."""
        self.append(Finding(check=check, status="ok", found=found))

    def warn(self, check: str, found: str, advice: str = "") -> None:
        """Note what will matter another day."""
        self.append(Finding(check=check, status="warning", found=found, advice=advice))

    def fail(self, check: str, found: str, advice: str = "") -> None:
        """Note what would make a backup fail."""
        self.append(Finding(check=check, status="failure", found=found, advice=advice))

    @contextmanager
    def failing(self, check: str, advice: str = "") -> Iterator[None]:
        """Note what goes wrong in a block, rather than raise it."""
        try:
            yield
        except Cancelled:
            raise
        except psycopg.Error as error:
            self.fail(check, str(server_error(error)), advice)
        except (PgS3Error, ClientError, BotoCoreError) as error:
            self.fail(check, str(error), advice)
