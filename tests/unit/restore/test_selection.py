"""A restore of some tables takes all that belongs to them, and what they cannot be without."""

from pathlib import Path

import pytest

from airflow_pg_s3.core.errors import ClientProgramError, InputError
from airflow_pg_s3.core.postgres.archive.toc import Entry, Toc
from airflow_pg_s3.core.postgres.archive.use_list import listed_ids
from airflow_pg_s3.core.restore.selection import loose_ends, refuse_views_alone, select

# As pg_dump of PostgreSQL 18 writes them; the numbers are made short. The last are dependencies.
ENTRIES = [
    (1, "ENCODING", "", "ENCODING", ()),
    (2, "STDSTRINGS", "", "STDSTRINGS", ()),
    (3, "SEARCHPATH", "", "SEARCHPATH", ()),
    (4, "DATABASE", "", "d", ()),
    (5, "EXTENSION", "", "hstore", ()),
    (6, "COMMENT", "", "EXTENSION hstore", (5,)),
    (7, "SCHEMA", "", "audit", ()),
    (8, "SCHEMA", "", "my schema", ()),
    (9, "SCHEMA", "", "-dash", ()),
    (10, "TYPE", "public", "mood", ()),
    (11, "FUNCTION", "my schema", "f()", (8,)),
    (12, "FUNCTION", "public", "positive(integer)", ()),
    (13, "FUNCTION", "public", "touch()", ()),
    (20, "TABLE", "public", "customers", (10,)),
    (21, "COMMENT", "public", "TABLE customers", (20,)),
    (22, "COMMENT", "public", "COLUMN customers.name", (20,)),
    (23, "ACL", "public", "TABLE customers", (20,)),
    (24, "SEQUENCE", "public", "customers_id_seq", (20,)),
    (25, "SEQUENCE OWNED BY", "public", "customers_id_seq", (24,)),
    (26, "DEFAULT", "public", "customers id", (24, 20, 20)),
    (30, "TABLE", "public", "orders", (12,)),
    (31, "VIEW", "public", "big_orders", (30, 30, 30)),
    (32, "MATERIALIZED VIEW", "public", "totals", (30,)),
    (33, "SEQUENCE", "public", "free_seq", ()),
    (34, "TABLE", "public", "borrower", (24,)),
    (40, "TABLE", "public", "events", ()),
    (41, "TABLE", "public", "events_2024", (40,)),
    (42, "TABLE", "public", "events_2025", (40,)),
    (43, "TABLE", "public", "events_2025_a", (42,)),
    (44, "TABLE", "public", "parent", ()),
    (45, "TABLE", "public", "child", (44,)),
    (50, "TABLE", "audit", "log", (7,)),
    (51, "TABLE", "my schema", "my table", (8,)),
    (52, "VIEW", "my schema", "my view", (8,)),
    (53, "TABLE", "-dash", "t", (9,)),
    (54, "VIEW", "-dash", "v", (9,)),
    (55, "TABLE", "public", 'we"ird.na\n me', ()),
    (60, "TABLE ATTACH", "public", "events_2024", (41, 40)),
    (61, "TABLE ATTACH", "public", "events_2025", (42, 40)),
    (62, "TABLE ATTACH", "public", "events_2025_a", (43, 42)),
    (70, "TABLE DATA", "public", "customers", (20,)),
    (71, "TABLE DATA", "public", "orders", (30,)),
    (72, "TABLE DATA", "public", "borrower", (34,)),
    (73, "TABLE DATA", "public", "events_2024", (41,)),
    (74, "TABLE DATA", "public", "events_2025_a", (43,)),
    (75, "TABLE DATA", "public", "parent", (44,)),
    (76, "TABLE DATA", "public", "child", (45,)),
    (77, "TABLE DATA", "audit", "log", (50,)),
    (78, "TABLE DATA", "my schema", "my table", (51,)),
    (79, "TABLE DATA", "-dash", "t", (53,)),
    (80, "TABLE DATA", "public", 'we"ird.na\n me', (55,)),
    (81, "SEQUENCE SET", "public", "customers_id_seq", (24,)),
    (82, "SEQUENCE SET", "public", "free_seq", (33,)),
    (83, "BLOB METADATA", "", "16487", ()),
    (84, "BLOBS", "", "16487", (83, 999)),
    (90, "CONSTRAINT", "public", "customers customers_pkey", (20,)),
    (91, "CONSTRAINT", "public", "orders orders_pkey", (30,)),
    (92, "INDEX", "public", "customers_name", (20,)),
    (93, "COMMENT", "public", "INDEX customers_name", (92,)),
    (94, "INDEX", "public", "events_x_idx", (40,)),
    (95, "INDEX", "public", "events_2024_x_idx", (41, 41, 94)),
    (96, "INDEX ATTACH", "public", "events_2024_x_idx", (95, 94, 41, 40)),
    (97, "STATISTICS", "public", "st", (30, 30)),
    (98, "RULE", "public", "big_orders r", (31, 30, 31, 31)),
    (99, "TRIGGER", "public", "orders t", (30, 13)),
    (100, "FK CONSTRAINT", "public", "orders orders_customer_fkey", (30, 90, 20)),
    (101, "ROW SECURITY", "public", "orders", (30,)),
    (102, "POLICY", "public", "orders p", (30, 30, 20)),
    (103, "PUBLICATION", "", "pub", ()),
    (104, "PUBLICATION TABLE", "public", "pub orders", (30, 103)),
    (105, "DEFAULT ACL", "audit", "DEFAULT PRIVILEGES FOR TABLES", (7,)),
    (106, "MATERIALIZED VIEW DATA", "public", "totals", (32, 998)),
    (107, "FK CONSTRAINT", "audit", "log log_customer_fkey", (50, 90, 20)),
    (108, "COMMENT", "audit", "CONSTRAINT log_customer_fkey ON log", (107,)),
    (109, "DEFAULT", "public", 'we"ird.na\n me id', (24, 55, 55)),
]
SETTINGS = {1, 2, 3}
CUSTOMERS = {20, 21, 22, 23, 24, 25, 26, 70, 81, 90, 92, 93}
ORDERS = {30, 71, 91, 97, 99, 101, 102}


def toc_of(*facts, encoding="UTF8"):
    return Toc(
        version=(1, 16),
        is_custom=False,
        database="d",
        server_version="18.4",
        pg_dump_version="18.4",
        encoding=encoding,
        entries=[
            Entry(n, kind, None, schema, name, "", "", "", "", 0, 0, False, b"", b"", b"", needs, "")
            for n, kind, schema, name, needs in facts
        ],
    )


TOC = toc_of(*ENTRIES)


@pytest.fixture
def chosen():
    """Patterns → the numbers of the entries that are taken."""

    def choose(tables=(), schemas=(), **arguments):
        numbers = [entry.dump_id for entry in select(TOC, tables=tables, schemas=schemas, **arguments).entries]
        assert numbers == [number for number, *_ in ENTRIES if number in numbers]
        assert {*numbers} >= SETTINGS
        return {*numbers} - SETTINGS

    return choose


def test_the_entries_that_options_leave_are_asked_for_and_their_order_kept(fake_program, tmp_path):
    tools = fake_program(
        "[ \"$*\" = '--list --no-owner /the/archive' ] && printf '%s\\n' '; Archive created' ';  dbname: 8; 9' "
        "'30; 0 0 HOLOGRAM public 7; 1 postgres' ';\tdepends on: 5' '4; 1259 16399 TABLE public t\344ble postgres'"
    )
    assert listed_ids(Path("/the/archive"), tools=tools, arguments=["--no-owner"]) == [30, 4]


def test_an_archive_that_pg_restore_cannot_read_is_an_error_with_its_words(fake_program, tmp_path):
    tools = fake_program("echo 'pg_restore: error: unsupported version' >&2; exit 1")
    with pytest.raises(ClientProgramError, match="unsupported version"):
        listed_ids(tmp_path, tools=tools)


@pytest.mark.parametrize("pattern", ["customers", "public.customers", "cust*", "public.c[u]stomers"])
def test_a_table_comes_with_all_that_is_attached_and_what_it_needs_and_nothing_else(chosen, pattern):
    assert chosen([pattern]) == CUSTOMERS | {10}


def test_into_a_database_that_has_the_rest_a_table_comes_with_what_is_attached_alone(chosen):
    assert chosen(["customers"], exists=lambda entry: True) == CUSTOMERS


def test_what_the_target_has_of_what_a_table_needs_stays_away_and_so_does_what_only_that_needs(chosen):
    assert chosen(["borrower"], exists=lambda entry: entry.kind == "SEQUENCE") == {34, 72}
    assert chosen(["borrower"], exists=lambda entry: entry.kind == "TYPE") == {34, 72, 24, 20}
    # What was asked for comes in any case.
    assert chosen(["borrower", "customers"], exists=lambda entry: True) == CUSTOMERS | {34, 72}


def test_views_without_what_they_read_are_refused_unless_the_target_has_it():
    def refuse(numbers, has=()):
        entries = [entry for entry in TOC.entries if entry.dump_id in numbers]
        refuse_views_alone(entries, TOC, lambda entry: entry.name in has)

    refuse({31, 30})
    refuse({31, 32}, has=["orders"])
    # Partitions and tables that inherit are no views: what they belong to is a tie.
    refuse({42, 45})
    with pytest.raises(
        InputError, match=r"read public\.orders, which the target lacks: .* tables=\['public.orders'\]$"
    ):
        refuse({31, 32})


def test_the_query_of_a_view_may_come_by_a_rule():
    toc = toc_of(
        (1, "TABLE", "public", "t", ()), (2, "VIEW", "public", "v", ()), (3, "RULE", "public", "v _RETURN", (1, 2))
    )
    refuse_views_alone(toc.entries, toc, lambda entry: False)
    with pytest.raises(InputError, match=r"read public\.t, "):
        refuse_views_alone(toc.entries[1:], toc, lambda entry: False)


def test_a_materialized_view_is_filled_only_if_it_comes_itself():
    toc = toc_of(
        (1, "MATERIALIZED VIEW", "public", "m", ()),
        (2, "MATERIALIZED VIEW", "public", "of_m", (1,)),
        (3, "MATERIALIZED VIEW DATA", "public", "m", (1,)),
        (4, "MATERIALIZED VIEW DATA", "public", "of_m", (2, 1)),
    )
    assert [entry.dump_id for entry in select(toc, tables=["m"]).entries] == [1, 3]
    assert [entry.dump_id for entry in select(toc, tables=["m", "of_m"]).entries] == [1, 2, 3, 4]


def test_a_foreign_key_comes_only_with_both_its_tables(chosen):
    assert 100 not in chosen(["orders"], exists=lambda entry: True)
    assert 100 not in chosen(["orders"])
    assert chosen(["orders", "customers"]) == CUSTOMERS | ORDERS | {10, 12, 13, 100}


def test_a_foreign_key_to_another_schema_comes_only_with_that_and_its_comment_with_it(chosen):
    assert {107, 108}.isdisjoint(chosen(["audit.log"]) | chosen(schemas=["audit"]))
    assert {107, 108} <= chosen(["audit.log", "customers"])
    assert {107, 108} <= chosen(["customers"], ["audit"])


def test_what_a_table_needs_comes_without_its_data(chosen):
    # The default of borrower is a sequence that belongs to customers.
    assert chosen(["borrower"]) == {34, 72, 24, 20, 10}
    assert chosen(["big_orders"]) == {31, 98, 30, 12}
    assert chosen(["child"]) == {45, 76, 44}


def test_a_policy_or_rule_that_only_mentions_a_table_stays_away(chosen):
    assert 102 not in chosen(["customers"])
    assert 98 not in chosen(["orders"])
    assert 98 in chosen(["big_orders"])


def test_a_materialized_view_is_filled_again(chosen):
    assert chosen(["totals"]) == {32, 106, 30, 12}


def test_a_sequence_keeps_its_value(chosen):
    assert chosen(["free_seq"]) == {33, 82}


def test_a_partitioned_table_comes_with_its_partitions_and_their_data(chosen):
    everything = {40, 41, 42, 43, 60, 61, 62, 73, 74, 94, 95, 96}
    assert chosen(["events"]) == everything
    assert chosen(["events"], exists=lambda entry: True) == everything


def test_a_partition_brings_its_root_along_and_not_its_siblings(chosen):
    assert chosen(["events_2024"]) == {41, 73, 60, 95, 96, 40, 94}
    assert chosen(["events_2025"]) == {42, 43, 61, 62, 74, 40}


def test_an_inheriting_table_is_a_table_of_its_own(chosen):
    assert chosen(["parent"]) == {44, 75}


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("my schema.my table", {51, 78, 8}),
        ("my schema.*", {51, 78, 52, 8}),
        ("-dash.t", {53, 79, 9}),
        ("-dash.v", {54, 9}),
        # With what its default needs: the sequence of customers.
        ('public.we"ird.na\n me', {55, 80, 109, 24, 20, 10}),
        ("public.we*", {55, 80, 109, 24, 20, 10}),
        ("audit.*", {50, 77, 7}),
    ],
)
def test_tables_of_awkward_names_are_found_as_the_manifest_writes_them(chosen, pattern, numbers):
    assert chosen([pattern]) == numbers


def test_a_name_with_the_signs_of_a_pattern_is_first_a_name():
    toc = toc_of((1, "TABLE", "public", "c*", ()), (2, "TABLE", "public", "customers", ()))
    assert [entry.dump_id for entry in select(toc, tables=["c*"]).entries] == [1]


@pytest.mark.parametrize("raw", ["größe".encode(), "größe".encode("latin-1")])
def test_names_of_an_ascii_database_are_found_as_the_manifest_shows_them(raw):
    name = raw.decode("utf-8", errors="surrogateescape")
    toc = toc_of(
        (1, "TABLE", name, name, ()),
        (2, "TABLE", name, name + "r", ()),
        (3, "DEFAULT", name, name + "r id", (1, 2)),
        encoding="SQL_ASCII",
    )
    asked = []
    assert [(e.dump_id, e.schema, e.name) for e in select(toc, tables=["größe.größe"]).entries] == [
        (1, "größe", "größe")
    ]
    found = select(toc, tables=["größe.größer"], exists=lambda entry: asked.append(entry.name)).entries
    assert [entry.dump_id for entry in found] == [1, 2, 3]
    assert asked == ["größe"]


def test_an_empty_schema_is_found():
    assert [e.dump_id for e in select(toc_of((1, "SCHEMA", "", "empty", ())), schemas=["empty"]).entries] == [1]


@pytest.mark.parametrize(
    ("schema", "numbers"),
    [
        ("audit", {7, 50, 77, 105}),
        ("my schema", {8, 11, 51, 52, 78}),
        ("my*", {8, 11, 51, 52, 78}),
        ("-dash", {9, 53, 54, 79}),
    ],
)
def test_a_schema_comes_with_all_that_is_in_it(chosen, schema, numbers):
    assert chosen(schemas=[schema]) == numbers
    assert chosen(schemas=[schema], exists=lambda entry: True) == numbers


def test_the_schema_public_takes_no_other(chosen):
    numbers = chosen(schemas=["public"])
    assert numbers >= CUSTOMERS | ORDERS | {10, 12, 13, 33, 82, 100}
    assert numbers.isdisjoint({5, 7, 8, 9, 11, 50, 51, 52, 53, 54, 77, 78, 79, 83, 84, 105})


def test_tables_and_schemas_add_up(chosen):
    assert chosen(["free_seq"], ["audit"]) == {33, 82, 7, 50, 77, 105}


def test_a_table_that_is_left_out_takes_along_all_that_depends_on_it(chosen):
    everything = {number for number, *_ in ENTRIES} - SETTINGS
    assert everything - chosen(exclude_tables=["audit.log"]) == {50, 77, 107, 108}
    assert everything - chosen(exclude_tables=["events_2025"]) == {42, 43, 61, 62, 74}
    # The sequence of customers is the default of borrower.
    assert everything - chosen(exclude_tables=["customers"]) == CUSTOMERS | {34, 72, 100, 102, 107, 108, 109}


def test_what_is_left_out_goes_before_what_is_taken(chosen):
    assert chosen(schemas=["audit"], exclude_tables=["audit.*"]) == {7, 105}
    assert chosen(["customers", "orders"], exclude_tables=["orders"]) == CUSTOMERS | {10, 12, 13}


def test_a_pattern_that_leaves_nothing_out_is_an_error(chosen):
    with pytest.raises(InputError, match="exclude_tables: 'custmers' matches nothing in the backup; did you mean"):
        chosen(exclude_tables=["custmers"])


@pytest.mark.parametrize(
    ("tables", "schemas", "message"),
    [
        (["custmers"], [], "tables: 'custmers' matches nothing in the backup; did you mean public.customers"),
        (["audit.lgo"], [], "tables: 'audit.lgo' matches nothing in the backup; did you mean audit.log"),
        (["orders", "zzzzzzzzzz"], [], "tables: 'zzzzzzzzzz' matches nothing in the backup; there are -dash.t, "),
        ([], ["adit"], "schemas: 'adit' matches nothing in the backup; did you mean audit"),
        (["public"], [], "tables: 'public' matches nothing"),
        (["customers_pkey"], [], "tables: 'customers_pkey' matches nothing"),
        ([""], [], "tables: '' matches nothing"),
        (
            ['"Orders"'],
            [],
            "tables: '\"Orders\"' matches nothing in the backup; names are taken as they are written, without "
            "quotes and with their case: did you mean public.orders?",
        ),
        (
            ["orders, audit.*"],
            [],
            "tables: 'orders, audit.*' matches nothing in the backup; give each by itself: "
            "tables=['orders', 'audit.*']",
        ),
        (
            ["public.orders,"],
            [],
            "tables: 'public.orders,' matches nothing in the backup; give each by itself: "
            "tables=['public.orders']",
        ),
        ([], ["public audit"], "schemas: 'public audit' matches nothing in the backup; give each by itself: "),
        (
            ["orders, custmers"],
            [],
            "tables: 'orders, custmers' matches nothing in the backup; did you mean public.cust",
        ),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_that_suggests_near_names(chosen, tables, schemas, message):
    with pytest.raises(InputError) as caught:
        chosen(tables, schemas)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("arguments", "ties"),
    [
        ({"tables": ["orders"]}, {100, 104}),
        ({"tables": ["orders", "customers"]}, {104}),
        ({"tables": ["customers"]}, set()),
        ({"schemas": ["audit"]}, {107, 108}),
        ({"exclude_tables": ["customers"]}, {100, 107, 108}),
        ({"exclude_tables": ["orders"]}, set()),
        ({"tables": ["events_2024"]}, set()),
        ({"tables": ["events_2024"], "exists": lambda entry: True}, {60, 96}),
        ({"tables": ["events"], "exists": lambda entry: True}, set()),
        ({}, set()),
    ],
)
def test_what_ties_the_chosen_to_others_comes_last(arguments, ties):
    selected = select(TOC, **arguments)
    assert {entry.dump_id for entry in selected.ties} == ties
    assert ties.isdisjoint(entry.dump_id for entry in selected.entries)


def test_links_to_what_a_part_lacks_are_told_from_those_within_it():
    # As pg_dump --exclude-table of customers and of the partitioned table events writes them.
    toc = toc_of(
        (10, "TABLE", "public", "orders", ()),
        (11, "TABLE", "public", "early", ()),
        (12, "TABLE", "public", "notes", ()),
        (13, "TABLE", "public", "days", ()),
        (14, "FOREIGN TABLE", "public", "monday", (13,)),
        (20, "TABLE ATTACH", "public", "early", (11,)),
        (21, "TABLE ATTACH", "public", "monday", (14, 13)),
        (30, "CONSTRAINT", "public", "orders orders_pkey", (10,)),
        (31, "INDEX", "public", "orders_n", (10,)),
        (32, "CONSTRAINT", "public", "early early_pkey", (11, 11)),
        (33, "INDEX", "public", "days_i", (13,)),
        (34, "INDEX", "public", "monday_i", (14, 14, 33)),
        (40, "INDEX ATTACH", "public", "early_pkey", (32, 11, 11)),
        (41, "INDEX ATTACH", "public", "monday_i", (34, 33, 14, 13)),
        (50, "FK CONSTRAINT", "public", "orders orders_c_fkey", (10,)),
        (51, "COMMENT", "public", "CONSTRAINT orders_c_fkey ON orders", (50,)),
        (52, "FK CONSTRAINT", "public", "orders orders_prev_fkey", (10, 10, 30)),
        (53, "COMMENT", "public", "CONSTRAINT orders_prev_fkey ON orders", (52,)),
        (54, "FK CONSTRAINT", "public", "notes notes_n_fkey", (12, 10, 31)),
        (55, "FK CONSTRAINT", "public", "notes notes_at_fkey", (12, 40)),
    )
    assert [entry.dump_id for entry in loose_ends(toc)] == [20, 40, 50, 51, 55]
