"""The table of contents tells which table a member belongs to, whatever people call their tables."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.postgres.archive.table_data import CopyTarget, TableData, copy_target, tables_of_members
from airflow_pg_s3.core.postgres.archive.toc import Entry, Toc

AWKWARD = [
    "plain",
    "Upper",
    "sp ace",
    'quo"te',
    '"',
    "dot.ted",
    "com,ma",
    "par(en)",
    ") FROM stdin;",
    "new\nline",
    "\n",
    "tab\t",
    "back\\slash",
    "'",
    "ünï €",
    "-- comment",
    '", "',
]
ENTRY = Entry(
    dump_id=5,
    kind="TABLE DATA",
    section="data",
    schema="public",
    name="t",
    owner="postgres",
    tablespace="",
    access_method="",
    relkind="",
    catalog_oid=0,
    oid=16453,
    has_data=True,
    definition=b"",
    drop=b"",
    copy=b"COPY public.t (a) FROM stdin;\n",
    dependencies=(232,),
    file="5.dat",
)


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def data_of(number, schema, name, columns, codec="utf-8"):
    listed = f"({', '.join(map(quoted, columns))})" if columns else ""
    command = f"COPY {quoted(schema)}.{quoted(name)} {listed} FROM stdin;\n"
    return ENTRY._replace(
        dump_id=number, schema=schema, name=name, copy=command.encode(codec), file=f"{number}.dat"
    )


def toc_of(*entries, encoding="UTF8"):
    return Toc(
        version=(1, 16),
        is_custom=False,
        database="shop",
        server_version="18.4",
        pg_dump_version="18.4",
        encoding=encoding,
        entries=list(entries),
    )


def read(*entries, encoding="UTF8"):
    return {
        member: (table.schema, table.name, table.columns, table.through_root)
        for member, table in tables_of_members(toc_of(*entries, encoding=encoding)).items()
    }


@pytest.mark.parametrize(
    ("command", "target"),
    [
        ('COPY "-dash".t (a) FROM stdin;\n', CopyTarget(b"-dash", b"t", (b"a",))),
        (
            'COPY "my schema"."my table" (id, "Second", "th""ird") FROM stdin;\n',
            CopyTarget(b"my schema", b"my table", (b"id", b"Second", b'th"ird')),
        ),
        ("COPY public.nothing  FROM stdin;\n", CopyTarget(b"public", b"nothing", ())),
    ],
)
def test_what_pg_dump_writes_is_read(command, target):
    assert copy_target(ENTRY._replace(copy=command.encode())) == target


@pytest.mark.parametrize(
    ("target", "quoted", "command"),
    [
        (CopyTarget(b"s", b"t", (b"a", b'b"')), b'"s"."t"', b'COPY "s"."t" ("a", "b""") FROM STDIN'),
        (CopyTarget(b's"', b"\xff", ()), b'"s"""."\xff"', b'COPY "s"""."\xff" FROM STDIN'),
    ],
)
def test_the_command_for_a_copy_of_our_own_quotes_everything(target, quoted, command):
    assert (target.quoted, target.command) == (quoted, command)


def test_only_the_data_of_tables_is_mapped():
    others = [ENTRY._replace(dump_id=7, kind="BLOBS", copy=b"", file="blobs.toc"), ENTRY._replace(kind="TABLE")]
    assert tables_of_members(toc_of(*others, ENTRY._replace(dump_id=6, file="6.dat"))) == {
        "6.dat": TableData(schema="public", name="t", columns=["a"], through_root=False)
    }


def test_a_partition_that_is_loaded_through_its_root_is_marked():
    # So the comment of newer programs, and so it was before them: the command alone tells.
    commented = data_of(5, "public", "events", ["at"])._replace(
        name="events_1", definition=b"-- load via partition root events\n"
    )
    silent = data_of(6, "public", "events", ["at"])._replace(schema="parts", name="events")
    assert read(commented, silent, data_of(7, "public", "orders", ["id"])) == {
        "5.dat": ("public", "events", ["at"], True),
        "6.dat": ("public", "events", ["at"], True),
        "7.dat": ("public", "orders", ["id"], False),
    }


@pytest.mark.parametrize("name", AWKWARD, ids=repr)
def test_awkward_names_are_read_wherever_they_stand(name):
    entries = data_of(5, name, "t", ["c"]), data_of(6, "s", name, ["c"]), data_of(8, "s", "t", ["b", name, "d"])
    assert read(*entries) == {
        "5.dat": (name, "t", ["c"], False),
        "6.dat": ("s", name, ["c"], False),
        "8.dat": ("s", "t", ["b", name, "d"], False),
    }


names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from('"\n-.,() ;'), min_size=1
)


@given(names, names, st.lists(names, max_size=4))
def test_any_names_at_all_are_read(schema, name, columns):
    entry = data_of(5, schema, name, columns)
    assert read(entry) == {"5.dat": (schema, name, columns, False)}
    own = copy_target(entry)
    # Ours ends as psql and libpq want it.
    again = own.command.replace(b" FROM STDIN", b" FROM stdin;\n").replace(
        own.quoted + b" FROM", own.quoted + b"  FROM"
    )
    assert copy_target(entry._replace(copy=again)) == own


@pytest.mark.parametrize(
    ("encoding", "codec", "name"),
    [("LATIN1", "latin-1", "größe"), ("EUC_JP", "euc_jp", "表"), ("WIN1251", "cp1251", "таблица")],
)
def test_names_in_the_archives_encoding_are_read(encoding, codec, name):
    assert read(data_of(5, name, name, [name], codec), encoding=encoding) == {"5.dat": (name, name, [name], False)}


@pytest.mark.parametrize(("raw", "name"), [("größe".encode(), "größe"), ("größe".encode("latin-1"), "größe")])
def test_names_without_an_encoding_are_read_as_best_they_can(raw, name):
    entry = ENTRY._replace(
        name=raw.decode("utf-8", errors="surrogateescape"),
        copy=b'COPY public."' + raw + b'" (c) FROM stdin;\n',
    )
    assert read(entry, encoding="SQL_ASCII") == {"5.dat": ("public", name, ["c"], False)}


@pytest.mark.parametrize(
    "command",
    [
        "",
        "COPY public.t (a FROM stdin;\n",
        "COPY public.t (a) TO stdout;\n",
        "COPY public.t (a) FROM PROGRAM 'id';\n",
        "COPY public (a) FROM stdin;\n",
        'COPY public."t (a) FROM stdin;\n',
        'COPY public."" (a) FROM stdin;\n',
        "COPY public.T (a) FROM stdin;\n",
        "COPY public.t () FROM stdin;\n",
        "COPY public.t (a,b) FROM stdin;\n",
        "COPY public.t (a) FROM stdin;",
        "COPY public.t (a) FROM stdin;\nDROP TABLE x;\n",
    ],
)
def test_a_command_that_pg_dump_would_not_have_written_is_refused(command):
    message = (
        "the archive's COPY command for the data of public.t (entry 5) is not one that pg_dump would have written"
    )
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        copy_target(ENTRY._replace(copy=command.encode()))


def test_data_without_a_file_is_refused():
    with pytest.raises(IntegrityError, match=r"^the archive has no file for the data of public\.t \(entry 5\)$"):
        tables_of_members(toc_of(ENTRY._replace(file="")))
