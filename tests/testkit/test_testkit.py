"""The hard database survives pg_dump and pg_restore; the comparison says so, and finds what was tampered with."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.database_equality import compare_databases
from testkit.databases import create_bulk_database, create_hard_roles, create_many_tables
from testkit.postgres import Cluster
from tests.support.sampling import sample

# what is done to the restored database, and the sentence that the comparison has for it
TAMPERING = [
    ("DROP PUBLICATION by_schema", r"PUBLICATION by_schema is missing"),
    (
        "UPDATE volume.long_bytes SET body = set_byte(body, 1000, 7)",
        r"table volume\.long_bytes: row 1 differs at byte 200[34]: '.*' instead of '.*'",
    ),
    ("DELETE FROM volume.orders WHERE id = 500", r"table volume\.orders: 24999 rows instead of 25000"),
    ("UPDATE texts.awkward SET b = '' WHERE id = 1", r"table texts\.awkward: row 1 differs at byte 0: .*"),
    ("DELETE FROM shapes_of_tables.no_columns WHERE ctid = '(0,1)'", r"table .*\.no_columns: 6 rows instead of 7"),
    (
        "DELETE FROM shapes_of_tables.by_enum WHERE id = 20 AND mood = 'sad'",
        r"partitioned table shapes_of_tables\.by_enum: 179 rows instead of 180",
    ),
    ("CREATE TABLE public.extra ()", r"TABLE public\.extra was not there before"),
    (
        "REFRESH MATERIALIZED VIEW views.by_key WITH NO DATA",
        r"table views\.by_key: populated is False instead of True",
    ),
    ("ALTER TABLE constraints.nest ADD COLUMN more int", r"TABLE constraints\.nest differs: .*more.*"),
    (
        "SELECT setval('sequences.midway', 1304)",
        r"sequence sequences\.midway: last_value is 1304 instead of 1460",
    ),
    ("SELECT setval('sequences.not_called', 4711, true)", r"sequence sequences\.not_called: is_called is True.*"),
    ("ALTER SEQUENCE sequences.fresh INCREMENT 2", r"sequence sequences\.fresh: seqincrement is 2 instead of 1"),
    ("DROP INDEX constraints.indexed_expression", r"INDEX constraints\.indexed_expression is missing"),
    ("SELECT lo_put(910001, 0, '\\x01')", r"large object 910001: content \(SHA-256\) is .*"),
    ("SELECT lo_unlink(920040)", r"large object 920040 is missing"),
    ("COMMENT ON LARGE OBJECT 920007 IS NULL", r"large object 920007: comment is None instead of 'the seventh'"),
    ("REVOKE SELECT ON LARGE OBJECT 910002 FROM lab_reader", r"large object 910002: rights is \[.*"),
    ("ALTER LARGE OBJECT 920001 OWNER TO lab_owner", r"large object 920001: owner is 'lab_owner' instead of .*"),
    (
        "COMMENT ON TABLE shapes_of_tables.by_range IS NULL",
        r"COMMENT shapes_of_tables\.TABLE .*by_range.* is missing",
    ),
    ("REVOKE SELECT (id) ON access.owned FROM lab_reader", r"ACL access\.COLUMN .*owned.*id.* is missing"),
    (
        "ALTER TABLE views.triggered ENABLE TRIGGER is_disabled",
        r"TRIGGER views\.triggered is_disabled differs: .*",
    ),
    ("ALTER TABLE access.tenants NO FORCE ROW LEVEL SECURITY", r"TABLE access\.tenants differs: .*FORCE ROW.*"),
    ("ALTER VIEW views.steps OWNER TO lab_reader", r"VIEW views\.steps differs: .*lab_reader.*"),
    ("DROP EXTENSION IF EXISTS vector, hstore CASCADE", r"extension (vector|hstore) is missing"),
]


def restore_a_copy(
    source: Cluster, name: str, target: Cluster, *, into: str, archive: Path, locale: str = "C.UTF-8"
) -> None:
    source.run("pg_dump", "-Fd", "-j2", "-Z0", "-f", archive, dbname=name)
    target.drop_database(into)
    target.create_database(into, template="template0", locale=locale)
    # With one job: several run GRANTs at once that need each other, and then fail at times.
    target.run("pg_restore", "-d", into, archive)


@pytest.mark.parametrize("postgres", sample([15, 18], 1, "equal copy"), indirect=True)
def test_the_hard_database_equals_its_copy(
    postgres: Cluster, hard_database: Callable[[Cluster], str], tmp_path: Path
) -> None:
    name = hard_database(postgres)
    restore_a_copy(postgres, name, postgres, into="copy", archive=tmp_path / "archive")
    assert compare_databases(postgres.dsn(name), postgres.dsn("copy")) == []


def test_the_hard_database_equals_its_copy_on_a_newer_server(
    pg15: Cluster, portable_hard_database: Callable[[Cluster], str], pg18: Cluster, tmp_path: Path
) -> None:
    name = portable_hard_database(pg15)
    create_hard_roles(pg18)
    restore_a_copy(pg15, name, pg18, into="from older", archive=tmp_path / "archive")
    assert compare_databases(pg15.dsn(name), pg18.dsn("from older")) == []


def test_the_comparison_names_everything_that_was_tampered_with(
    pg16: Cluster, hard_database: Callable[[Cluster], str], tmp_path: Path
) -> None:
    name = hard_database(pg16)
    restore_a_copy(pg16, name, pg16, into="tampered", archive=tmp_path / "archive")
    assert compare_databases(pg16.dsn(name), pg16.dsn("tampered")) == []
    with pg16.connect("tampered") as connection:
        for statement, _ in TAMPERING:
            connection.execute(statement)
    found = compare_databases(pg16.dsn(name), pg16.dsn("tampered"))
    unnamed = [wanted for _, wanted in TAMPERING if not any(re.fullmatch(wanted, f, re.S) for f in found)]
    assert unnamed == [], "\n".join(found)


def test_the_order_of_a_policys_roles_is_no_difference(pg16: Cluster, pg18: Cluster) -> None:
    policy = 'create table t (); create policy p on t to "of policy, 1", "of policy, 2" using (true)'
    for cluster, numbers in ((pg16, (1, 2)), (pg18, (2, 1))):
        for number in numbers:
            cluster.psql(f'create role "of policy, {number}"')
        cluster.create_database("policy", template="template0")
        cluster.psql(policy, "policy")
    assert compare_databases(pg16.dsn("policy"), pg18.dsn("policy")) == []


def test_the_comparison_names_another_encoding(pg16: Cluster) -> None:
    pg16.create_database("utf8", template="template0")
    pg16.create_database("latin1", template="template0", encoding="LATIN1", locale="C")
    assert compare_databases(pg16.dsn("utf8"), pg16.dsn("latin1")) == [
        "database itself: encoding is 'LATIN1' instead of 'UTF8'",
        "database itself: collation is 'C' instead of 'C.UTF-8'",
        "database itself: character type is 'C' instead of 'C.UTF-8'",
    ]


def test_members_of_the_hard_database_lie_at_one_mebibyte_and_on_both_sides_of_it(
    pg18: Cluster, hard_database: Callable[[Cluster], str], tmp_path: Path
) -> None:
    pg18.run("pg_dump", "-Fd", "-Z0", "-n", "volume", "-f", tmp_path / "archive", dbname=hard_database(pg18))
    sizes = [file.stat().st_size for file in (tmp_path / "archive").iterdir()]
    assert {1024**2 - 1, 1024**2, 1024**2 + 1} <= set(sizes)
    assert sum(size > 1024**2 for size in sizes) >= 5
    assert sum(size < 1024**2 for size in sizes) >= 60


@pytest.mark.parametrize(("shape", "tables"), [("one-table", 1), ("balanced", 8)])
def test_bulk_data_has_the_size_and_the_ratio_that_were_asked_for(
    pg18: Cluster, shape: str, tables: int, tmp_path: Path
) -> None:
    create_bulk_database(pg18, f"bulk {shape}", megabytes=20, shape=shape)  # type: ignore[arg-type]
    pg18.run("pg_dump", "-Fd", "-Z0", "-f", tmp_path / "plain", dbname=f"bulk {shape}")
    pg18.run("pg_dump", "-Fd", "-Z6", "-f", tmp_path / "gzipped", dbname=f"bulk {shape}")
    plain, gzipped = (
        sum(file.stat().st_size for file in (tmp_path / folder).glob("*.dat*")) for folder in ("plain", "gzipped")
    )
    assert len(list((tmp_path / "plain").glob("[0-9]*.dat"))) == tables
    assert plain == pytest.approx(20_000_000, rel=0.05)
    assert 3 < plain / gzipped < 5


def test_many_tables_are_as_many_as_were_asked_for(pg18: Cluster) -> None:
    create_many_tables(pg18, "many", tables=123)
    assert pg18.psql("SELECT count(*) FROM pg_tables WHERE schemaname ~ '^part_'", "many").strip() == "123"
