"""A table of contents is read as pg_restore reads it; what it might read otherwise is refused by name."""

import json
import re
import tarfile
from pathlib import Path

import pytest

from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.postgres.archive.table_data import tables_of_members
from airflow_pg_s3.core.postgres.archive.toc import (
    DATA,
    POST_DATA,
    PRE_DATA,
    check_files,
    list_large_objects,
    parse_toc,
    read_folder,
    read_toc,
)
from airflow_pg_s3.core.postgres.encodings import _CODECS, codec_of
from testkit.toc_writer import CUSTOM, TAR, entry, in_tar, listed, number, table_of_contents, text

COPY = b"COPY public.orders (id) FROM stdin;\n"
FORMS = [(14, TAR), (15, TAR), (16, TAR), (14, CUSTOM), (15, CUSTOM), (16, CUSTOM)]


def one(**fields):
    """A table of contents with a table's data in it, of which some fields are others."""
    facts = {
        "dump_id": 5, "kind": b"TABLE DATA", "name": b"orders", "has_data": 1, "section": 3, "schema": b"public",
        "copy": COPY, "file": b"5.dat",
    }  # fmt: skip
    return table_of_contents(entry(**facts | fields))


@pytest.mark.parametrize(("version", "archive"), FORMS)
@pytest.mark.parametrize("wrap", [bytes, in_tar])
def test_all_fields_are_read_in_each_version_and_format(version, archive, wrap):
    table = entry(
        4,
        b"TABLE",
        b"orders",
        version=version,
        archive=archive,
        catalog_oid=b"1259",
        oid=b"4294967295",
        definition=b"CREATE TABLE public.orders (id int);\n",
        drop=b"DROP TABLE public.orders;\n",
        schema=b"public",
        tablespace=b"fast",
        access_method=b"heap",
        relkind=ord("r"),
        owner=b"alice",
        dependencies=[b"2147483647", b"7"],
    )
    data = entry(
        5,
        b"TABLE DATA",
        b"orders",
        version=version,
        archive=archive,
        has_data=1,
        section=3,
        copy=COPY,
        file=b"5.dat",
    )
    toc = parse_toc(wrap(table_of_contents(table, data, version=version, archive=archive)))
    assert (toc.version, toc.is_custom, toc.encoding) == ((1, version), archive == CUSTOM, "UTF8")
    assert (toc.database, toc.server_version, toc.pg_dump_version) == ("shop", "18.4", "18.4")
    assert [found.kind for found in toc.entries] == ["ENCODING", "TABLE", "TABLE DATA"]
    assert toc.by_id[4]._asdict() == {
        "dump_id": 4,
        "kind": "TABLE",
        "section": PRE_DATA,
        "schema": "public",
        "name": "orders",
        "owner": "alice",
        "tablespace": "fast",
        "access_method": "heap",
        "relkind": "r" if version == 16 else "",
        "catalog_oid": 1259,
        "oid": 4294967295,
        "has_data": False,
        "definition": b"CREATE TABLE public.orders (id int);\n",
        "drop": b"DROP TABLE public.orders;\n",
        "copy": b"",
        "dependencies": (2147483647, 7),
        "file": "",
    }
    found = toc.by_id[5]
    assert (found.has_data, found.copy, found.file, found.schema) == (
        True,
        COPY,
        "5.dat" if archive == TAR else "",
        "",
    )


GOLDEN = sorted((Path(__file__).parents[3] / "golden").glob("*.dat"))


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_the_golden_archives_are_read_as_ever_and_as_pg_restore_lists_them(file):
    """Made by testkit/golden_archives.py."""
    toc = read_toc(file)
    expected = json.loads(file.with_suffix(".json").read_text())
    assert {name: json.loads(json.dumps(getattr(toc, name))) for name in expected if name != "entries"} == {
        name: value for name, value in expected.items() if name != "entries"
    }
    assert json.loads(json.dumps([e._asdict() for e in toc.entries], default=bytes.decode)) == expected["entries"]
    assert b"".join(listed(entry, toc.codec) for entry in toc.entries) == file.with_suffix(".list").read_bytes()
    assert toc.is_custom == (".custom" in file.name)
    if ".directory" in file.name:
        check_files(toc)
        assert [(t.schema, t.name, t.columns) for t in tables_of_members(toc).values()] == [
            ("DATA", "orders", ["id", 'what "it" is']),
            ("public", "new\nline", ["order_id"]),
            ("public", "part", ["i"]),
        ]


def test_there_is_a_golden_archive_of_each_major_and_format():
    names = [file.stem for file in GOLDEN]
    assert names == [*(f"{major}.directory" for major in range(14, 18)), "18.custom", "18.directory", "18.tar"]


def test_what_has_no_section_of_its_own_goes_with_what_it_follows():
    kinds = [(2, 2), (3, 1), (4, 3), (5, 1), (6, 4), (7, 1)]
    toc = parse_toc(table_of_contents(*(entry(n, b"COMMENT", b"x", section=section) for n, section in kinds)))
    assert toc.section_of == {
        1: PRE_DATA, 2: PRE_DATA, 3: PRE_DATA, 4: DATA, 5: DATA, 6: POST_DATA, 7: POST_DATA,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "raw", "name", "shown"),
    [
        ("UTF8", "größe".encode(), "größe", "größe"),
        ("LATIN1", b"gr\xf6\xdfe", "größe", "größe"),
        ("EUC_JP", b"\xc9\xbd", "表", "表"),
        ("SQL_ASCII", b"gr\xf6\xdfe", "gr\udcf6\udcdfe", "größe"),
        ("SQL_ASCII", "größe".encode(), "größe", "größe"),
    ],
)
def test_names_are_read_in_the_archives_encoding_and_shown_as_manifests_have_them(encoding, raw, name, shown):
    made = table_of_contents(
        entry(5, b"TABLE", raw, schema=raw, owner=raw), encoding=f"SET client_encoding = '{encoding}';\n".encode()
    )
    toc = parse_toc(made)
    found = toc.by_id[5]
    assert (found.schema, found.name, found.owner) == (name, name, name)
    assert toc.shown(found.name) == shown


def test_each_encoding_of_postgresql_has_a_codec():
    assert len(_CODECS) == 42
    for encoding in _CODECS:
        assert b"\xff\x80\xe9 x".decode(codec_of(encoding), errors="surrogateescape").endswith(" x")
    assert codec_of("hex") == "utf-8"


NUMBERS = "holds a number that pg_dump cannot have written"
LENGTHS = "holds a length that pg_dump cannot have written"
BROKEN = {
    "nothing": (b"", "is damaged"),
    "no archive": (b"PGDUMP" * 100, "is damaged"),
    "a head alone": (b"PGDMP\x01\x10\0", "is damaged"),
    "integers of 8 bytes": (table_of_contents(sizes=(8, 8)), "has numbers of another size than pg_dump's"),
    "offsets of 4 bytes": (table_of_contents(sizes=(4, 4)), "has numbers of another size than pg_dump's"),
    "an unknown format": (table_of_contents(archive=2), "is of the unknown format 2"),
    "an unknown compression": (
        table_of_contents()[:11] + b"\x04" + table_of_contents()[12:],
        "names the unknown compression 4",
    ),
    "more behind it": (one() + b"x", "continues after its end"),
    "no entries": (table_of_contents(count=0), "claims to have 0 entries"),
    "less than no entries": (table_of_contents(count=-2), "claims to have -2 entries"),
    "fewer entries than it has": (table_of_contents(entry(2, b"TABLE", b"t"), count=1), "continues after its end"),
    "more entries than it has": (table_of_contents(count=2), "ends too early"),
    "one number twice": (
        table_of_contents(entry(4, b"TABLE", b"t"), entry(4, b"TABLE", b"u")),
        "has two entries of one number",
    ),
    "the number 0": (one(dump_id=0), "has an entry of the number 0 with data 1"),
    "a negative number": (one(dump_id=-3), "has an entry of the number -3 with data 1"),
    "data of another kind": (one(has_data=2), "has an entry of the number 5 with data 2"),
    "no kind": (one(kind=None), "has an entry 5 of the kind None, name b'orders' and section 3"),
    "an empty kind": (one(kind=b""), "has an entry 5 of the kind b'', name b'orders' and section 3"),
    "a kind in lower case": (
        one(kind=b"Table"),
        "has an entry 5 of the kind b'Table', name b'orders' and section 3",
    ),
    "a kind on two lines": (
        one(kind=b"A\nB"),
        "has an entry 5 of the kind b'A\\nB', name b'orders' and section 3",
    ),
    "no name": (one(name=None), "has an entry 5 of the kind b'TABLE DATA', name None and section 3"),
    "the section 0": (one(section=0), "has an entry 5 of the kind b'TABLE DATA', name b'orders' and section 0"),
    "the section 5": (one(section=5), "has an entry 5 of the kind b'TABLE DATA', name b'orders' and section 5"),
    "a relkind that is no letter": (
        one(relkind=1114112),
        "has an entry 5 of the relkind 1114112 and with OIDs b'false'",
    ),
    "a negative relkind": (one(relkind=-1), "has an entry 5 of the relkind -1 and with OIDs b'false'"),
    "OIDs": (one(with_oids=b"true"), "has an entry 5 of the relkind 0 and with OIDs b'true'"),
    "no word on OIDs": (one(with_oids=None), "has an entry 5 of the relkind 0 and with OIDs None"),
    "a dependency of 0": (one(dependencies=[b"0"]), "holds b'0' where a number belongs"),
    "a negative dependency": (one(dependencies=[b"-1"]), "holds b'-1' where a number belongs"),
    "a dependency that wraps": (one(dependencies=[b"2147483648"]), "holds b'2147483648' where a number belongs"),
    "a dependency in other words": (one(dependencies=[b" 7"]), "holds b' 7' where a number belongs"),
    "a dependency with more behind it": (one(dependencies=[b"7x"]), "holds b'7x' where a number belongs"),
    "an OID that wraps": (one(oid=b"4294967296"), "holds b'4294967296' where a number belongs"),
    "an OID that is none": (one(catalog_oid=b""), "holds b'' where a number belongs"),
    "a file out of the archive": (
        one(file=b"../../etc/passwd"),
        "names the file '../../etc/passwd', which pg_dump would not have written",
    ),
    "a file in no letters": (one(file=b"\xff"), "names the file '\\\\xff', which pg_dump would not have written"),
    "no word on its file": (one(file=None), "has an entry that does not say whether it has a file"),
    "a NUL in a name": (one(name=b"orders\0"), "holds a NUL, which no name in PostgreSQL can have"),
    "a NUL in a file": (one(file=b"5.dat\0x"), "holds a NUL, which no name in PostgreSQL can have"),
    "a length of -0": (one().replace(text(b"orders"), b"\1" + bytes(4)), LENGTHS),
    "a length of -2": (one().replace(text(b"orders"), number(-2)), LENGTHS),
    "a length of another sign": (one().replace(text(b"orders"), b"\2" + text(b"orders")[1:]), LENGTHS),
    "a length that C has wrap": (
        one().replace(text(b"orders"), b"\0\xff\xff\xff\xff"),
        "ends too early",
    ),
    "a number that C has wrap": (one(dump_id=77777).replace(number(77777), b"\1\xff\xff\xff\xff"), NUMBERS),
    "a number of another sign": (one(dump_id=77777).replace(number(77777), b"\2" + number(77777)[1:]), NUMBERS),
    "a place in no way of pg_dump": (
        table_of_contents(entry(5, b"TABLE", b"t", archive=CUSTOM, place=bytes(9)), archive=CUSTOM),
        "does not say as pg_dump does where an entry's data is",
    ),
    "a tar archive with another first member": (in_tar(one(), name="1.dat"), "is damaged"),
    "a tar archive with a folder": (in_tar(one(), name="toc.dat", kind=tarfile.DIRTYPE), "is damaged"),
}
NO_ENCODING = "does not begin with an encoding that PostgreSQL knows"
BROKEN |= {
    f"the encoding {said!r}": (table_of_contents(encoding=said), NO_ENCODING)
    for said in (
        b"",
        b"SET client_encoding = 'hex';\n",
        b"SET client_encoding = 'x'; SELECT 'UTF8';\n",
        b"SET x;\n",
    )
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_pg_dump_would_not_have_written_is_refused_by_name(case):
    data, message = BROKEN[case]
    expected = f"the archive's table of contents {message}"
    with pytest.raises(IntegrityError, match=f"^{re.escape(expected)}$"):
        parse_toc(data)


@pytest.mark.parametrize(
    ("data", "version", "known"),
    [
        (b"PGDMP\x01\x0d\x00" + one()[8:], "1.13.0", "1.16"),
        (b"PGDMP\x01\x11\x00" + one()[8:], "1.17.0", "1.16: upgrade it"),
        (b"PGDMP\x02\x00\x00" + one()[8:], "2.0.0", "1.16: upgrade it"),
        (b"PGDMP\x01\x10\x01" + one()[8:], "1.16.1", "1.16"),
    ],
)
def test_a_version_that_is_not_known_is_named(data, version, known):
    message = (
        f"the archive's table of contents has version {version}, and this version of airflow-provider-pg-s3 knows "
        f"1.14 to {known}"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        parse_toc(data)


@pytest.mark.parametrize(("version", "archive"), FORMS)
@pytest.mark.parametrize("wrap", [bytes, in_tar])
def test_one_that_ends_anywhere_is_refused(version, archive, wrap):
    table = entry(5, b"TABLE", b"t", version=version, archive=archive, dependencies=[b"7"])
    whole = table_of_contents(table, version=version, archive=archive)
    padding = len(wrap(whole)) - wrap(whole).rindex(whole) - len(whole)
    data = wrap(whole)[: len(wrap(whole)) - padding]
    parse_toc(data)
    for length in range(len(data)):
        with pytest.raises(IntegrityError, match=r"is damaged|ends too early"):
            parse_toc(data[:length])


@pytest.mark.parametrize("kind", [b"BLOBS", b"TABLE DATA"])
@pytest.mark.parametrize(
    ("has_data", "file"), [(1, b"6.dat"), (1, b"blobs_6.toc"), (1, b""), (0, b"5.dat"), (0, b"blobs_5.toc")]
)
def test_a_file_of_another_entry_is_refused(kind, has_data, file):
    toc = parse_toc(one(kind=kind, has_data=has_data, file=file))
    with pytest.raises(IntegrityError, match=f"names the file '{file.decode()}', which pg_dump would not have"):
        check_files(toc)


@pytest.mark.parametrize(
    ("kind", "file"), [(b"TABLE DATA", b"5.dat"), (b"BLOBS", b"blobs.toc"), (b"BLOBS", b"blobs_5.toc")]
)
def test_the_files_that_pg_dump_names_are_taken(kind, file):
    check_files(parse_toc(one(kind=kind, file=file)))


def test_a_custom_archives_table_of_contents_is_none_of_a_folder():
    with pytest.raises(IntegrityError, match="is that of a custom archive"):
        check_files(parse_toc(table_of_contents(archive=CUSTOM)))


def test_a_folder_is_read_with_its_lists_of_large_objects(tmp_path):
    (tmp_path / "toc.dat").write_bytes(one(kind=b"BLOBS", file=b"blobs_5.toc"))
    (tmp_path / "blobs_5.toc").write_bytes(b"16395 blob_16395.dat\n7 blob_7.dat\n")
    assert read_folder(tmp_path) == read_toc(tmp_path / "toc.dat")
    assert list_large_objects(tmp_path / "blobs_5.toc") == [(16395, "blob_16395.dat"), (7, "blob_7.dat")]
    (tmp_path / "blobs_5.toc").write_bytes(b"16395 ../x\n")
    with pytest.raises(IntegrityError, match=r"member blobs_5\.toc holds b'16395 \.\./x', which names no large"):
        read_folder(tmp_path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "toc.dat").touch()
    with pytest.raises(IntegrityError, match="is empty"):
        read_toc(tmp_path / "toc.dat")
