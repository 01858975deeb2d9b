"""Settings that change how values are written or read, at either end: what is restored is what was there."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import sql

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.connection import parameters
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.postgres import DEBIAN, Cluster, all_installations
from tests.support.sampling import combine, sample

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

LOCALE = "es_AR.UTF-8"  # 12.34 is written as "$ 12,34", which is 1,234.00 in the locale C
ODD = {
    "lc_monetary": LOCALE,
    "lc_numeric": LOCALE,
    "array_nulls": "off",
    "backslash_quote": "off",
    "bytea_output": "escape",
    "DateStyle": "SQL, DMY",
    "extra_float_digits": "-15",
    "IntervalStyle": "sql_standard",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "synchronize_seqscans": "on",
    "TimeZone": "America/Argentina/Buenos_Aires",
    "timezone_abbreviations": "Australia",
    "xmlbinary": "hex",
    "xmloption": "document",
}
# Shows every value as it is, whatever the session's settings were.
PLAIN = """
set lc_monetary = 'C'; set bytea_output = 'hex'; set datestyle = 'ISO, YMD'; set extra_float_digits = 3;
set intervalstyle = 'postgres'; set timezone = 'UTC'; set quote_all_identifiers = off;
set standard_conforming_strings = on;
"""
FILL = """
create domain price as money;
create type item as (what text, cost money);
create type span as range (subtype = money);
create table small (
    i int primary key, m money, ms money[], p price default '5.25', l item, s span, n numeric, f float8,
    b bytea, d date, t timestamptz, z timetz, iv interval, a text[] default array[null, 'NULL'], x xml, c text,
    check (m > '1.5')
);
insert into small select i, m, array[m, null, m + '1'], m, ('a,b', m)::item, span(m, m + '1'), 1234.5 * i,
    i / 3.0::float8, '\\x005c27ff', '2026-02-03', '2026-02-03 04:05:06+07', '04:05:06+07',
    '-1 year -2 mons +3 days -04:05:06.7', array['a', null, 'NULL', 'null'],
    'text <b>and</b> more', E'it''s \\\\ n'
    from generate_series(1, 3) i, lateral (select (12.34 + i)::numeric::money as m) as money;
create table large as select small.*, repeat(md5(j::text), 20) as noise from small, generate_series(1, 1000) as j;
alter table large alter p set default '7.75';
create view cheap as select i, m from small where m < '14.34';
"""
SHOWN = (
    "select md5(string_agg(s::text, '|' order by i)), min(m), max(l::text), max(a::text), max(iv), max(t),"
    " max(b::text) from small s",
    "select md5(string_agg(s::text, '|' order by i, noise)), count(*) from large s",
    "select count(*) from cheap",
    "select adrelid::regclass, pg_get_expr(adbin, adrelid) from pg_attrdef order by 1, 2",
    "select pg_get_constraintdef(oid) from pg_constraint where contype = 'c' and conrelid = 'small'::regclass",
)


@pytest.fixture(scope="module")
def argentine() -> Iterator[Cluster]:
    """A server that knows the locale, and does not use it by itself."""
    debian = [each for each in all_installations() if each.folder == DEBIAN / "15/bin"]
    if not Path("/usr/share/i18n/locales/es_AR").exists() or not debian:
        reason = "Debian's packages postgresql-15 and locales are missing"
        if os.environ.get("PG_S3_REQUIRE_TOOLS") == "1":
            pytest.fail(f"PG_S3_REQUIRE_TOOLS=1, but {reason}")
        pytest.skip(reason)
    # Where the server's user, who is not ours, can read it.
    with tempfile.TemporaryDirectory(prefix="locales-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        subprocess.run(["localedef", "-i", "es_AR", "-f", "UTF-8", f"{folder}/{LOCALE}"], check=True)
        with Cluster(installation=debian[0], environment={"LOCPATH": folder}) as cluster:
            assert cluster.psql(f"set lc_monetary = '{LOCALE}'; select 12.34::numeric::money").strip() == "$ 12,34"
            yield cluster


@pytest.fixture
def odd_role(argentine: Cluster) -> Iterator[Callable[[str, str], None]]:
    """(setting, value): set it for the role that the tests are."""
    yield lambda name, value: argentine.psql(f"alter role postgres set {name} to {value!r}")
    argentine.psql("alter role postgres reset all")


def set_for(cluster: Cluster, database: str, name: str, value: str) -> None:
    command = sql.SQL("alter database {} set {} to {}")
    with cluster.connect() as connection:
        # A list, in the case of DateStyle, is one value here.
        connection.execute(command.format(sql.Identifier(database), sql.SQL(name), sql.Literal(value)))


def contents(cluster: Cluster, database: str) -> list[str]:
    return [cluster.psql(PLAIN + query, database) for query in SHOWN]


@pytest.fixture
def source(argentine: Cluster, new_database) -> tuple[str, list[str]]:
    """A database, and what it holds; made without odd settings."""
    name = new_database(argentine, FILL, name="odd")
    return name, contents(argentine, name)


def test_what_is_shown_is_what_was_put_in(source, s3) -> None:
    small, large, *others = source[1]
    assert small.rstrip().split("|")[1:4] == ["$13.34", '("a,b",$15.34)', '{a,NULL,"NULL","null"}']
    assert large.rstrip().endswith("|3000")
    assert "'$5.25'" in "".join(others)


@pytest.mark.parametrize(
    ("name", "end"), sample(combine(ODD, ["source", "target"], name="of the database"), 4, "of the database")
)
def test_a_setting_of_the_database(
    argentine: Cluster, source, back_up, restore, new_database, name: str, end: str
) -> None:
    database, expected = source
    target = new_database(argentine)
    set_for(argentine, database if end == "source" else target, name, ODD[name])
    restore(argentine, target, backup=back_up(argentine, database)["uri"])
    assert contents(argentine, target) == expected


@pytest.mark.parametrize(
    ("name", "end"),
    sample(
        combine(
            ["lc_monetary", "array_nulls", "IntervalStyle", "bytea_output", "xmloption"],
            ["source", "target"],
            name="of the role",
        ),
        3,
        "of the role",
    ),
)
def test_a_setting_of_the_role(
    argentine: Cluster,
    source,
    back_up,
    restore,
    new_database,
    odd_role,
    connections,
    spool_dir,
    name: str,
    end: str,
) -> None:
    database, expected = source
    target = new_database(argentine)
    if end == "source":
        odd_role(name, ODD[name])
        backup = back_up(argentine, database)
        argentine.psql(f"alter role postgres reset {name}")
    else:
        backup = back_up(argentine, database)
        odd_role(name, ODD[name])
    restore(argentine, target, backup=backup["uri"])
    # Reads the restored database by sessions that have the setting, or by such that have not.
    connections.set("pg_scratch", argentine.airflow_connection("postgres"))
    PgS3VerifyOperator(
        task_id="verify",
        backup=backup["uri"],
        aws_conn_id="aws",
        postgres_conn_id="pg_scratch",
        spool_dir=str(spool_dir),
    ).execute(context={})
    argentine.psql(f"alter role postgres reset {name}")
    assert contents(argentine, target) == expected


@pytest.mark.parametrize(
    "arguments",
    sample(
        [
            {"if_exists": "replace"},
            {"if_exists": "clean", "jobs": 1},
            {"if_exists": "clean"},
            {"managed_service": True},
        ],
        2,
        "at both ends",
    ),
    ids=str,
)
def test_all_of_them_at_both_ends(
    argentine: Cluster, source, back_up, restore, new_database, arguments: dict
) -> None:
    database, expected = source
    managed = "managed_service" in arguments
    target = new_database(argentine) if managed else database
    for name, value in ODD.items():
        set_for(argentine, database, name, value)
        set_for(argentine, target, name, value)
    backup = back_up(argentine, database)
    if not managed:
        argentine.psql("update small set m = null", database)
    restore(argentine, target, backup=backup["uri"], **arguments)
    assert contents(argentine, target) == expected


def test_a_backup_of_before_is_read_as_it_was_written(
    argentine: Cluster, source, back_up, restore, new_database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, expected = source
    set_for(argentine, database, "lc_monetary", LOCALE)
    monkeypatch.setattr("airflow_pg_s3.core.postgres.server._HAS_MONEY", "select false")
    backup = back_up(argentine, database)
    target = new_database(argentine)
    set_for(argentine, target, "lc_monetary", LOCALE)
    restore(argentine, target, backup=backup["uri"])
    assert contents(argentine, target) == expected


@pytest.mark.parametrize(
    "table",
    sample(["a money", "a money[]", "a price", "a item", "a span", "a int"], 3, "money"),
)
def test_the_manifest_says_how_money_is_written(
    argentine: Cluster, back_up, new_database, manifest_of, table: str
) -> None:
    types = {
        "a price": "create domain price as money;",
        "a item": "create type item as (what text, cost money);",
        "a span": "create type span as range (subtype = money);",
    }
    database = new_database(argentine, f"{types.get(table, '')} create table t ({table})")
    expected = None if table == "a int" else "C"
    assert manifest_of(back_up(argentine, database)).dump.lc_monetary == expected


@pytest.mark.parametrize(
    "options", ["-c no_such_setting=0", f"-c lc_monetary=C -c lc_monetary={LOCALE}"], ids=["refused", "dropped"]
)
def test_what_hands_no_options_on_is_refused_only_if_they_are_needed(
    argentine: Cluster, new_database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3, options: str
) -> None:
    database = new_database(argentine)
    params = parameters(database=database, keywords=argentine.keywords)
    assert "PGOPTIONS" not in params.environment(tmp_path, lc_monetary="C")
    set_for(argentine, database, "lc_monetary", LOCALE)
    assert params.environment(tmp_path, lc_monetary="C")["PGOPTIONS"] == "-c lc_monetary=C"
    assert "PGOPTIONS" not in params.environment(tmp_path)
    monkeypatch.setattr("airflow_pg_s3.core.postgres.connection._AS_IN_C", options)
    with pytest.raises(InputError, match=r"writes money in a locale of its own.*connect to the server itself"):
        params.environment(tmp_path, lc_monetary="C")
