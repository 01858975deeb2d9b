"""A restore of some tables takes all that belongs to them, and what they cannot be without."""

from types import SimpleNamespace

import pytest

from airflow_pg_s3.core.errors import ClientProgramError, InputError
from airflow_pg_s3.core.manifest import Member, Table
from airflow_pg_s3.core.selection import list_entries, select

# As `pg_restore --list --verbose` of PostgreSQL 18 writes it; the numbers are made short.
LISTING = """\
;
; Archive created at 2026-11-22 15:16:07 UTC
;     dbname: d
;     TOC Entries: 72
;     Dump Version: 1.16-0
;
; Selected TOC Entries:
;
1; 0 0 ENCODING - ENCODING\x20
2; 0 0 STDSTRINGS - STDSTRINGS\x20
3; 0 0 SEARCHPATH - SEARCHPATH\x20
4; 1262 16384 DATABASE - d postgres
5; 3079 16385 EXTENSION - hstore\x20
6; 0 0 COMMENT - EXTENSION hstore\x20
;	depends on: 5
7; 2615 16386 SCHEMA - audit postgres
8; 2615 16387 SCHEMA - my schema postgres
9; 2615 16388 SCHEMA - -dash postgres
10; 1247 16390 TYPE public mood postgres
11; 1255 16397 FUNCTION my schema f() postgres
;	depends on: 8
12; 1255 16396 FUNCTION public positive(integer) postgres
13; 1255 16395 FUNCTION public touch() postgres
20; 1259 16399 TABLE public customers postgres
;	depends on: 10
21; 0 0 COMMENT public TABLE customers postgres
;	depends on: 20
22; 0 0 COMMENT public COLUMN customers.name postgres
;	depends on: 20
23; 0 0 ACL public TABLE customers postgres
;	depends on: 20
24; 1259 16398 SEQUENCE public customers_id_seq postgres
;	depends on: 20
25; 0 0 SEQUENCE OWNED BY public customers_id_seq postgres
;	depends on: 24
26; 2604 16402 DEFAULT public customers id postgres
;	depends on: 24 20 20
30; 1259 16411 TABLE public orders postgres
;	depends on: 12
31; 1259 16429 VIEW public big_orders postgres
;	depends on: 30 30 30
32; 1259 16433 MATERIALIZED VIEW public totals postgres
;	depends on: 30
33; 1259 16478 SEQUENCE public free_seq postgres
34; 1259 16425 TABLE public borrower my role
;	depends on: 24
40; 1259 16460 TABLE public events postgres
41; 1259 16463 TABLE public events_2024 postgres
;	depends on: 40
42; 1259 16466 TABLE public events_2025 postgres
;	depends on: 40
43; 1259 16467 TABLE public events_2025_a postgres
;	depends on: 42
44; 1259 16472 TABLE public parent postgres
45; 1259 16475 TABLE public child postgres
;	depends on: 44
50; 1259 16441 TABLE audit log postgres
;	depends on: 7
51; 1259 16446 TABLE my schema my table postgres
;	depends on: 8
52; 1259 16449 VIEW my schema my view postgres
;	depends on: 8
53; 1259 16453 TABLE -dash t postgres
;	depends on: 9
54; 1259 16456 VIEW -dash v postgres
;	depends on: 9
55; 1259 16484 TABLE public we"ird.na  me postgres
60; 0 0 TABLE ATTACH public events_2024 postgres
;	depends on: 41 40
61; 0 0 TABLE ATTACH public events_2025 postgres
;	depends on: 42 40
62; 0 0 TABLE ATTACH public events_2025_a postgres
;	depends on: 43 42
70; 0 16399 TABLE DATA public customers postgres
;	depends on: 20
71; 0 16411 TABLE DATA public orders postgres
;	depends on: 30
72; 0 16425 TABLE DATA public borrower my role
;	depends on: 34
73; 0 16463 TABLE DATA public events_2024 postgres
;	depends on: 41
74; 0 16467 TABLE DATA public events_2025_a postgres
;	depends on: 43
75; 0 16472 TABLE DATA public parent postgres
;	depends on: 44
76; 0 16475 TABLE DATA public child postgres
;	depends on: 45
77; 0 16441 TABLE DATA audit log postgres
;	depends on: 50
78; 0 16446 TABLE DATA my schema my table postgres
;	depends on: 51
79; 0 16453 TABLE DATA -dash t postgres
;	depends on: 53
80; 0 16484 TABLE DATA public we"ird.na  me postgres
;	depends on: 55
81; 0 0 SEQUENCE SET public customers_id_seq postgres
;	depends on: 24
82; 0 0 SEQUENCE SET public free_seq postgres
;	depends on: 33
83; 2613 16487 BLOB METADATA - 16487 postgres
84; 0 0 BLOBS - 16487 postgres
;	depends on: 83 999
90; 2606 16408 CONSTRAINT public customers customers_pkey postgres
;	depends on: 20
91; 2606 16417 CONSTRAINT public orders orders_pkey postgres
;	depends on: 30
92; 1259 16409 INDEX public customers_name postgres
;	depends on: 20
93; 0 0 COMMENT public INDEX customers_name postgres
;	depends on: 92
94; 1259 16469 INDEX public events_x_idx postgres
;	depends on: 40
95; 1259 16470 INDEX public events_2024_x_idx postgres
;	depends on: 41 41 94
96; 0 0 INDEX ATTACH public events_2024_x_idx postgres
;	depends on: 95 94 41 40
97; 3381 16483 STATISTICS public st postgres
;	depends on: 30 30
98; 2618 16440 RULE public big_orders r postgres
;	depends on: 31 30 31 31
99; 2620 16423 TRIGGER public orders t postgres
;	depends on: 30 13
100; 2606 16418 FK CONSTRAINT public orders orders_customer_fkey postgres
;	depends on: 30 90 20
101; 0 16411 ROW SECURITY public orders postgres
;	depends on: 30
102; 3256 16424 POLICY public orders p postgres
;	depends on: 30 30 20
103; 6104 16489 PUBLICATION - pub postgres
104; 6106 16490 PUBLICATION TABLE public pub orders postgres
;	depends on: 30 103
105; 826 16488 DEFAULT ACL audit DEFAULT PRIVILEGES FOR TABLES postgres
;	depends on: 7
106; 0 16433 MATERIALIZED VIEW DATA public totals postgres
;	depends on: 32 998
107; 2606 16500 FK CONSTRAINT audit log log_customer_fkey postgres
;	depends on: 50 90 20
108; 0 0 COMMENT audit CONSTRAINT log_customer_fkey ON log postgres
;	depends on: 107
109; 2604 16501 DEFAULT public we"ird.na  me id postgres
;	depends on: 24 55 55
"""
SETTINGS = {1, 2, 3}
# The names as they are; in the listing, a newline has become a space.
TABLES = {
    70: ("public", "customers"),
    71: ("public", "orders"),
    72: ("public", "borrower"),
    73: ("public", "events_2024"),
    74: ("public", "events_2025_a"),
    75: ("public", "parent"),
    76: ("public", "child"),
    77: ("audit", "log"),
    78: ("my schema", "my table"),
    79: ("-dash", "t"),
    80: ("public", 'we"ird.na\n me'),
}
DIGEST = "0" * 64
CUSTOMERS = {20, 21, 22, 23, 24, 25, 26, 70, 81, 90, 92, 93}
ORDERS = {30, 71, 91, 97, 99, 101, 102}


def table_data(number, schema, name, **facts):
    table = Table(schema=schema, name=name, columns=[], rows=0, content_sha256=DIGEST, **facts)
    return Member(name=f"{number}.dat", objects=["x"], packed=True, raw_bytes=0, sha256=DIGEST, table=table)


MANIFEST = SimpleNamespace(
    members=[
        Member(name="toc.dat", objects=["x"], packed=True, raw_bytes=0, sha256=DIGEST),
        *(table_data(number, *name) for number, name in TABLES.items()),
    ]
)


@pytest.fixture
def entries(fake_program, tmp_path):
    (tmp_path / "listing").write_text(LISTING)
    return list_entries(tmp_path, tools=fake_program(f"cat '{tmp_path}/listing'"), arguments=["--verbose"])


@pytest.fixture
def chosen(entries):
    """Patterns → the numbers of the entries that are taken."""

    def choose(tables=(), schemas=(), manifest=MANIFEST, **arguments):
        selected = select(entries, manifest, tables=tables, schemas=schemas, **arguments)
        assert [entry.dump_id for entry in entries if entry in selected] == [entry.dump_id for entry in selected]
        numbers = {entry.dump_id for entry in selected}
        assert numbers >= SETTINGS
        return numbers - SETTINGS

    return choose


def test_a_listing_is_read_with_what_each_entry_needs(entries):
    assert len(entries) == LISTING.count("\n") - LISTING.count("\n;") - 1
    by_id = {entry.dump_id: entry for entry in entries}
    assert (by_id[26].kind, by_id[26].rest, by_id[26].needs) == (
        "DEFAULT",
        "public customers id postgres",
        [24, 20, 20],
    )
    assert (by_id[1].kind, by_id[1].rest, by_id[1].needs) == ("ENCODING", "- ENCODING", [])
    assert (by_id[60].kind, by_id[25].kind, by_id[105].kind) == (
        "TABLE ATTACH",
        "SEQUENCE OWNED BY",
        "DEFAULT ACL",
    )
    assert all(entry.kind for entry in entries)


def test_a_line_of_a_kind_of_tomorrow_is_kept_without_a_kind(fake_program, tmp_path):
    tools = fake_program("echo '7; 1259 16399 HOLOGRAM public h postgres'")
    (entry,) = list_entries(tmp_path, tools=tools)
    assert (entry.dump_id, entry.kind, entry.rest) == (7, "", "HOLOGRAM public h postgres")


def test_names_that_are_no_unicode_survive(fake_program, tmp_path):
    tools = fake_program("printf '7; 1259 16399 TABLE public t\\344ble postgres\\n'")
    (entry,) = list_entries(tmp_path, tools=tools)
    assert entry.rest.encode(errors="surrogateescape") == b"public t\xe4ble postgres"


def test_an_archive_that_pg_restore_cannot_read_is_an_error_with_its_words(fake_program, tmp_path):
    tools = fake_program("echo 'pg_restore: error: unsupported version' >&2; exit 1")
    with pytest.raises(ClientProgramError, match="unsupported version"):
        list_entries(tmp_path, tools=tools)


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


def test_a_name_with_the_signs_of_a_pattern_is_first_a_name(fake_program, tmp_path):
    (tmp_path / "listing").write_text(
        "1; 1259 1 TABLE public c* postgres\n2; 1259 2 TABLE public customers postgres\n"
    )
    entries = list_entries(tmp_path, tools=fake_program(f"cat '{tmp_path}/listing'"))
    found = select(entries, MANIFEST, tables=["c*"])
    assert [entry.dump_id for entry in found] == [1]


def test_a_table_whose_name_is_listed_in_another_encoding_comes_with_all_that_is_attached(chosen):
    renamed = table_data(70, "public", "größe")
    manifest = SimpleNamespace(members=[renamed, *(m for m in MANIFEST.members if m.name != "70.dat")])
    assert chosen(["größe"], manifest=manifest) >= CUSTOMERS


def test_a_partition_that_is_loaded_through_its_root_is_found_by_its_own_name(chosen):
    through_root = table_data(73, "public", "events", through_root=True)
    manifest = SimpleNamespace(members=[through_root, *(m for m in MANIFEST.members if m.name != "73.dat")])
    assert 73 in chosen(["events_2024"], manifest=manifest)
    assert {73, 74} <= chosen(["events"], manifest=manifest)


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


def test_a_table_that_is_left_out_takes_along_all_that_depends_on_it(chosen, entries):
    everything = {entry.dump_id for entry in entries} - SETTINGS
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
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_that_suggests_near_names(chosen, tables, schemas, message):
    with pytest.raises(InputError) as caught:
        chosen(tables, schemas)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 500
