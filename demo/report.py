"""The table at the end of the demo."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIFFERENCES_SHOWN = 20


@dataclass(frozen=True)
class Report:
    """What was measured; the mappings are the operators' own results."""

    server: str
    database_bytes: int
    backup: Mapping[str, Any]
    verification: Mapping[str, Any]
    restore: Mapping[str, Any]
    one_table: Mapping[str, Any]
    objects: int
    copy: Path
    differences: Sequence[str]
    compare_seconds: float
    total_seconds: float

    def text(self) -> str:
        """For the terminal."""
        raw, stored = self.backup["raw_bytes"], self.backup["stored_bytes"]
        rows = [
            ("backed up", f"{self.backup['database']}, {_contents(self.backup)}, PostgreSQL {self.server}"),
            ("size", f"{_megabytes(self.database_bytes)} database, {_megabytes(raw)} dumped"),
            ("stored", f"{_megabytes(stored)} in {self.objects} objects, ratio {raw / stored:.1f}"),
            ("seconds", f"{self.backup['duration_seconds']:.1f}"),
            ("it lies at", self.backup["uri"]),
            ("copied to", f"{self.copy}/ for you to look at; the S3 server has ended"),
            None,
            ("verified", f"{_contents(self.verification)}: {self.verification['outcome']}"),
            ("seconds", self._verification_seconds()),
            ("evidence", self.verification["evidence"]),
            None,
            ("restored", f"{self.restore['database']}, {_contents(self.restore)}"),
            ("seconds", f"{self.restore['duration_seconds']:.1f}"),
            ("on demand", f"{self.one_table['database']}, {_contents(self.one_table)}, from the same backup"),
            ("compared", f"{self._verdict()}, in {self.compare_seconds:.1f} s"),
            None,
            ("demo", f"{self.total_seconds:.0f} s in all"),
        ]
        width = max(len(row[1]) for row in rows if row)
        rule = "─" * (14 + width)
        lines = [f"  {row[0]:<12}{row[1]}" if row else rule for row in rows]
        different = [f"  {sentence}" for sentence in self.differences[:DIFFERENCES_SHOWN]]
        return "\n".join(["", rule, *lines, rule, *different])

    def _verification_seconds(self) -> str:
        restore, compare = self.verification["restore_seconds"], self.verification["compare_seconds"]
        return f"{restore:.1f} to restore (that is what a recovery takes), {compare:.1f} to compare"

    def _verdict(self) -> str:
        if self.differences:
            return f"NOT EQUAL: {len(self.differences)} differences"
        return "equal: schema, every row, sequences, large objects"


def _contents(facts: Mapping[str, Any]) -> str:
    return f"{facts['tables']:,} {'table' if facts['tables'] == 1 else 'tables'}, {facts['rows']:,} rows"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
