"""docs/managed-services.md lists what may be left out, and nothing else."""

from pathlib import Path

from airflow_pg_s3.core.restore.managed_service import TOLERATED

DOCUMENT = (Path(__file__).parents[2] / "docs/managed-services.md").read_text()


def test_the_table_names_every_kind_that_may_be_left_out() -> None:
    table = DOCUMENT.partition("| left out if")[2].partition("\n\n")[0]
    rows = table.splitlines()[2:]
    kinds = [kind.strip() for row in rows for kind in row.split("|")[1].split(",")]
    assert sorted(kinds) == sorted(TOLERATED)


def test_no_kind_that_holds_or_guards_rows_may_be_left_out() -> None:
    holds = {"TABLE", "TABLE DATA", "TABLE ATTACH", "SEQUENCE", "SEQUENCE SET", "MATERIALIZED VIEW", "BLOBS"}
    guards = {"CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT", "DEFAULT", "POLICY", "ROW SECURITY", "RULE"}
    assert (holds | guards).isdisjoint(TOLERATED)
