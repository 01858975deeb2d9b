"""A restore of some tables or schemas brings all that belongs to them, and reads little more."""

import logging
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.postgres.connection import parameters
from airflow_pg_s3.core.restore.request import RestoreRequest, Selection
from airflow_pg_s3.core.restore.restore import RestoreResult
from airflow_pg_s3.core.restore.restore import restore as restore_by_core
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from testkit.postgres import Cluster, installations
from testkit.s3 import S3Server
from tests.integration.conftest import only_on

pytestmark = only_on("moto")

SHOP = r"""
CREATE SCHEMA shop;
CREATE SCHEMA audit;
CREATE SCHEMA types;
CREATE TYPE types.state AS ENUM ('new', 'regular');
CREATE DOMAIN types.name AS text CHECK (VALUE <> '');
CREATE FUNCTION types.shout(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN upper($1);
CREATE SEQUENCE types.numbers START 500;

CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.noted := true; RETURN NEW; END $$;
CREATE TABLE audit.log (id int, line text, customer int DEFAULT 100);
INSERT INTO audit.log SELECT i, 'line ' || i FROM generate_series(1, 500) AS i;
CREATE VIEW audit.latest AS SELECT max(id) FROM audit.log;

CREATE TABLE shop.customers (
    id int GENERATED ALWAYS AS IDENTITY (START 100) PRIMARY KEY, legacy serial, name types.name NOT NULL UNIQUE,
    state types.state DEFAULT 'new', number int DEFAULT nextval('types.numbers'), noted bool,
    shouted text GENERATED ALWAYS AS (types.shout(name)) STORED, CONSTRAINT positive CHECK (id > 0));
INSERT INTO shop.customers (name) SELECT 'customer ' || i FROM generate_series(1, 50) AS i;
CREATE INDEX by_state ON shop.customers (state, lower(name));
CREATE STATISTICS shop.together ON state, number FROM shop.customers;
CREATE TRIGGER noted BEFORE UPDATE ON shop.customers FOR EACH ROW EXECUTE FUNCTION audit.note();
CREATE RULE keep AS ON DELETE TO shop.customers DO INSTEAD NOTHING;
ALTER TABLE shop.customers ENABLE ROW LEVEL SECURITY;
CREATE POLICY "only new" ON shop.customers USING (state = 'new');
GRANT SELECT (name), INSERT ON shop.customers TO PUBLIC;
ALTER TABLE shop.customers REPLICA IDENTITY FULL, CLUSTER ON by_state, ALTER name SET STATISTICS 500;
COMMENT ON TABLE shop.customers IS 'who buys';
COMMENT ON COLUMN shop.customers.name IS 'as they say it';
COMMENT ON INDEX shop.by_state IS 'for the report';
COMMENT ON CONSTRAINT positive ON shop.customers IS 'always';
COMMENT ON TRIGGER noted ON shop.customers IS 'since 2024';
COMMENT ON POLICY "only new" ON shop.customers IS 'privacy';

CREATE TABLE shop.orders (id int PRIMARY KEY, customer int REFERENCES shop.customers, total numeric);
INSERT INTO shop.orders SELECT i, 100 + i % 50, i / 7.0 FROM generate_series(1, 1000) AS i;
COMMENT ON CONSTRAINT orders_customer_fkey ON shop.orders IS 'no order without a customer';

CREATE TABLE shop.events (at date NOT NULL, kind text, PRIMARY KEY (at, kind)) PARTITION BY RANGE (at);
CREATE TABLE shop.events_2025 PARTITION OF shop.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE shop.events_later PARTITION OF shop.events FOR VALUES FROM ('2026-01-01') TO (MAXVALUE)
    PARTITION BY LIST (kind);
CREATE TABLE audit.events_of_a PARTITION OF shop.events_later FOR VALUES IN ('a');
CREATE TABLE shop.events_rest PARTITION OF shop.events_later DEFAULT;
CREATE INDEX ON shop.events (kind);
INSERT INTO shop.events
    SELECT date '2025-07-01' + i, (ARRAY['a', 'b'])[i % 2 + 1] FROM generate_series(1, 400) AS i;

ALTER TABLE audit.log ADD FOREIGN KEY (customer) REFERENCES shop.customers;
COMMENT ON CONSTRAINT log_customer_fkey ON audit.log IS 'who did it';

CREATE SCHEMA "we ird.schema";
CREATE TABLE "we ird.schema"."ta ble ""x"".y" AS SELECT 1 AS "col umn", 'é' AS "é";
CREATE TABLE "we ird.schema"."new
line" AS SELECT 2 AS a;
CREATE TABLE "we ird.schema"."TABLE" AS SELECT 3 AS a;
CREATE TABLE "we ird.schema"."TABLE DATA x" AS SELECT 4 AS a;

CREATE TABLE public.plain AS SELECT generate_series(1, 10) AS a;
CREATE TABLE public.large AS
    SELECT i, (SELECT string_agg(decode(md5(i || '/' || j), 'hex'), '') FROM generate_series(1, 4096) AS j) AS a
    FROM generate_series(1, 128) AS i;
CREATE MATERIALIZED VIEW public.summary AS SELECT count(*) FROM public.plain;
SELECT lo_from_bytea(0, 'a large object');
"""


@pytest.fixture(scope="module")
def shop(pg18: Cluster) -> Iterator[str]:
    pg18.create_database("shop of selection")
    pg18.psql(SHOP, "shop of selection")
    yield "shop of selection"
    pg18.drop_database("shop of selection")


@pytest.fixture(scope="module")
def made(pg18: Cluster, shop: str, moto: S3Server) -> dict:
    """What the task returned that backed the shop up."""
    bucket = moto.create_bucket("backup-of-selection")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIRFLOW_CONN_PG", pg18.airflow_connection(shop))
        environment.setenv("AIRFLOW_CONN_AWS", moto.airflow_connection())
        environment.setenv("AIRFLOW__PG_S3__CLIENT_PATH", str(pg18.pg_bin))
        operator = PgS3BackupOperator(
            task_id="t", repository=f"s3://{bucket}", postgres_conn_id="pg", aws_conn_id="aws"
        )
        return operator.execute(context={})


@pytest.fixture
def target(pg18: Cluster, new_name) -> str:
    """The name of a database that does not exist."""
    return new_name(pg18, "selected")


@pytest.fixture
def dump_of(pg18: Cluster) -> Callable[..., list[str]]:
    """(database, *options of pg_dump) → what it writes."""

    def dump(database: str, *options: str) -> list[str]:
        done = subprocess.run(
            [pg18.pg_bin / "pg_dump", *options], env=pg18.client_env(database), capture_output=True, check=True
        )
        lines = done.stdout.decode().splitlines()
        return [line for line in lines if not line.startswith(("\\restrict", "\\unrestrict"))]

    return dump


@pytest.fixture
def relations(pg18: Cluster) -> Callable[[str], set[str]]:
    """(database) → its tables, views and sequences."""

    def names(database: str) -> set[str]:
        with pg18.connect(database) as connection:
            rows = connection.execute(
                "SELECT nspname || '.' || relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE "
                "relkind IN ('r', 'p', 'v', 'm', 'S') AND nspname !~ '^pg_' AND nspname <> 'information_schema'"
            )
            return {name for (name,) in rows}

    return names


CUSTOMERS = {"shop.customers", "shop.customers_id_seq", "shop.customers_legacy_seq", "types.numbers"}
EVENTS = {"shop.events", "shop.events_2025", "shop.events_later", "audit.events_of_a", "shop.events_rest"}


def test_a_table_comes_with_all_that_is_attached_to_it_and_all_that_it_needs(
    pg18: Cluster, shop: str, made: dict, restore, target: str, dump_of, relations
):
    done = restore(pg18, target, backup=made["uri"], tables=["shop.customers"])
    assert (done["tables"], done["rows"]) == (1, 50)
    assert dump_of(target, "--table=shop.customers") == dump_of(shop, "--table=shop.customers")
    assert relations(target) == CUSTOMERS
    with pg18.connect(target) as connection:
        connection.execute("UPDATE shop.customers SET name = 'new name' WHERE id = 100")
        row = connection.execute("SELECT shouted, noted FROM shop.customers WHERE id = 100").fetchone()
        assert row == ("NEW NAME", True)
        (identity,) = connection.execute("INSERT INTO shop.customers (name) VALUES ('x') RETURNING id").fetchone()
        assert identity == 150


def test_a_foreign_key_comes_if_both_of_its_tables_do(
    pg18: Cluster, shop: str, made: dict, restore, target: str, new_name, dump_of
):
    restore(pg18, target, backup=made["uri"], tables=["shop.orders", "shop.customers"])
    assert dump_of(target, "--table=shop.orders") == dump_of(shop, "--table=shop.orders")
    alone = new_name(pg18, "alone")
    done = restore(pg18, alone, backup=made["uri"], tables=["shop.orders"])
    assert (done["tables"], done["rows"]) == (1, 1000)
    with pg18.connect(alone) as connection:
        keys = connection.execute(
            "SELECT conname FROM pg_constraint WHERE conrelid = 'shop.orders'::regclass AND contype <> 'n'"
        ).fetchall()
    assert keys == [("orders_pkey",)]


def test_a_partitioned_table_comes_with_its_partitions_and_their_rows(
    pg18: Cluster, shop: str, made: dict, restore, target: str, dump_of, relations
):
    done = restore(pg18, target, backup=made["uri"], tables=["shop.events"])
    assert relations(target) == EVENTS
    assert done["rows"] == 400
    options = ["--table-and-children=shop.events"]
    assert dump_of(target, *options) == dump_of(shop, *options)


def test_one_partition_can_be_restored_alone(pg18: Cluster, made: dict, restore, target: str, new_name, relations):
    done = restore(pg18, target, backup=made["uri"], tables=["shop.events_2025"])
    assert done["rows"] == 183
    with pg18.connect(target) as connection:
        assert connection.execute("SELECT count(*) FROM shop.events_2025").fetchone() == (183,)


@pytest.mark.parametrize(
    ("pattern", "rows"),
    [
        ('we ird.schema.ta ble "x".y', 1),
        ("we ird.schema.new\nline", 1),
        ("we ird.schema.TABLE", 1),
        ("we ird.schema.TABLE DATA x", 1),
        ("we ird.schema.*", 4),
        ("plain", 10),
        ("public.p*", 10),
        ("*.customers", 50),
    ],
)
def test_a_name_is_written_as_it_is_and_may_be_a_pattern(
    pg18: Cluster, made: dict, restore, target: str, pattern: str, rows: int
):
    assert restore(pg18, target, backup=made["uri"], tables=[pattern])["rows"] == rows


def test_a_schema_comes_with_everything_in_it(
    pg18: Cluster, shop: str, made: dict, restore, target: str, dump_of, relations
):
    done = restore(pg18, target, backup=made["uri"], schemas=["audit"])
    assert {"audit.log", "audit.latest", "audit.events_of_a"} <= relations(target)
    assert not {"shop.customers", "public.plain"} & relations(target)
    assert done["rows"] == 500 + 109
    # without its foreign key to a table of another schema
    lines, original = dump_of(target, "--schema=audit"), dump_of(shop, "--schema=audit")
    assert set(lines) <= set(original)
    assert {line for line in original if line not in lines and "log_customer_fkey" not in line} == {
        "ALTER TABLE ONLY audit.log"
    }


def test_schemas_and_tables_add_up(pg18: Cluster, made: dict, restore, target: str, relations):
    restore(pg18, target, backup=made["uri"], schemas=["we ird*"], tables=["plain"])
    assert {name.partition(".")[0] for name in relations(target)} == {"we ird", "public"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tables": ["shop.custmers"]}, r"tables: 'shop.custmers' matches nothing.*did you mean shop\.customers"),
        ({"tables": ["shop.customers", "Plain"]}, r"tables: 'Plain' matches nothing.*did you mean public\.plain"),
        ({"tables": ["nowhere.*"]}, r"tables: 'nowhere\.\*' matches nothing"),
        ({"schemas": ["audits"]}, "schemas: 'audits' matches nothing.*did you mean audit"),
        ({"tables": "shop.customers"}, "tables must be a list of strings, not 'shop.customers'"),
        (
            {"pg_restore_options": ["--table=customers"]},
            "'--table=customers' selects what is restored: give tables=",
        ),
    ],
)
def test_a_typo_suggests_near_names_and_touches_nothing(
    pg18: Cluster, made: dict, restore, target: str, arguments: dict, message: str
):
    with pytest.raises(AirflowFailException, match=message):
        restore(pg18, target, backup=made["uri"], **arguments)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        pg18.connect(target)


def test_clean_replaces_one_table_and_leaves_the_others_alone(
    pg18: Cluster, shop: str, made: dict, restore, target: str, dump_of
):
    restore(pg18, target, backup=made["uri"])
    pg18.psql(
        """
        UPDATE audit.log SET line = 'spoilt' WHERE id > 10;
        ALTER TABLE audit.log ADD more int;
        DROP VIEW audit.latest;
        DELETE FROM shop.orders;
        INSERT INTO public.plain VALUES (11);
        """,
        target,
    )
    kept = dump_of(target, "--exclude-table=audit.log")
    done = restore(pg18, target, backup=made["uri"], tables=["audit.log"], if_exists="clean")
    assert done["rows"] == 500
    with pg18.connect(target) as connection, pg18.connect(shop) as original:
        rows = [c.execute("SELECT * FROM audit.log").fetchall() for c in (connection, original)]
    assert rows[0] == rows[1]
    assert dump_of(target, "--exclude-table=audit.log") == kept


def test_a_partitioned_table_can_be_replaced(pg18: Cluster, shop: str, made: dict, restore, target: str, dump_of):
    restore(pg18, target, backup=made["uri"])
    pg18.psql("DELETE FROM shop.events; DROP TABLE shop.events_2025", target)
    restore(pg18, target, backup=made["uri"], tables=["shop.events"], if_exists="clean")
    options = ["--table-and-children=shop.events"]
    assert dump_of(target, *options) == dump_of(shop, *options)


def test_a_table_that_is_there_already_is_refused_whatever_its_name(
    pg18: Cluster, made: dict, restore, new_database
):
    database = new_database(
        pg18, 'CREATE SCHEMA "we ird.schema"; CREATE TABLE "we ird.schema"."new\nline" (mine int)'
    )
    # In one line, whatever the name holds.
    with pytest.raises(AirflowFailException, match=r'holds relation "we ird.schema"."new line"'):
        restore(pg18, database, backup=made["uri"], tables=["we ird.schema.new*"])
    restore(pg18, database, backup=made["uri"], tables=["we ird.schema.ta*"])


def test_a_small_table_of_a_large_backup_is_read_alone(
    pg18: Cluster, s3: S3Server, shop: str, made: dict, new_name, manifest_of, spool_dir: Path
):
    def read_by(*tables: str, schema_only: bool = False) -> RestoreResult:
        request = RestoreRequest(
            backup=made["uri"],
            target=parameters(
                database=new_name(pg18, "read by"),
                keywords={"host": pg18.host, "port": pg18.port, "user": pg18.user, "password": pg18.password},
            ),
            spool_dir=str(spool_dir),
            client_path=[str(folder) for folder in installations().values()],
            wanted=Selection(tables=tables, schema_only=schema_only),
        )
        return restore_by_core(request, s3.client(), cancel=threading.Event(), log=logging.getLogger(__name__))

    assert made["stored_bytes"] > 8 << 20
    assert read_by("shop.orders").amounts.read_bytes < 100_000
    assert read_by("public.large").amounts.read_bytes > 8 << 20
    assert read_by(schema_only=True).amounts.read_bytes < 100_000
    assert read_by().amounts.read_bytes == made["stored_bytes"] + manifest_of(made).members.stored_bytes


@pytest.mark.parametrize(
    ("selection", "there"),
    [({"schemas": ["schéma"]}, {"café", "côté"}), ({"tables": ["schéma.café"]}, {"café"})],
    ids=["schema", "table"],
)
def test_names_in_another_encoding_can_be_selected(
    pg18: Cluster, new_database, back_up, restore, target: str, selection: dict, there: set[str]
):
    database = new_database(
        pg18,
        """
        SET client_encoding = UTF8;
        CREATE SCHEMA "schéma";
        CREATE TABLE "schéma"."café" AS SELECT 'é' AS a;
        CREATE FUNCTION "schéma"."côté"() RETURNS text LANGUAGE sql RETURN 'à';
        CREATE TABLE "élève" AS SELECT 1 AS a;
        """,
        encoding="LATIN1",
        locale="C",
        template="template0",
    )
    restore(pg18, target, backup=back_up(pg18, database)["uri"], **selection)
    with pg18.connect(target) as connection:
        names = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = '\"schéma\"'::regnamespace AND relkind = 'r' "
            "UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = '\"schéma\"'::regnamespace"
        ).fetchall()
    assert {name for (name,) in names} == there
