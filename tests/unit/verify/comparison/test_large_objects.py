"""What an archive says of large objects is read out of its entries, one by one or in groups."""

from airflow_pg_s3.core.postgres.archive.toc import parse_toc
from airflow_pg_s3.core.verify.comparison.large_objects import read_properties
from testkit.toc_writer import entry, table_of_contents

GRANTS = (
    b'GRANT SELECT ON LARGE OBJECT 7 TO reader;\nGRANT ALL ON LARGE OBJECT 7 TO "a ""b""" WITH GRANT OPTION;\n'
)
REVOKE = b"REVOKE ALL ON LARGE OBJECT 7 FROM alice;\n"
READ = {"SELECT reader", 'SELECT* a "b"', 'UPDATE* a "b"'}


def read(*entries):
    return {oid: vars(found) for oid, found in read_properties(parse_toc(table_of_contents(*entries))).items()}


def test_objects_of_their_own_entries():
    found = read(
        entry(2, b"STDSTRINGS", b"STDSTRINGS", definition=b"SET standard_conforming_strings = 'on';\n"),
        entry(3, b"BLOB", b"7", definition=b"SELECT pg_catalog.lo_create('7');\n", owner=b"alice"),
        entry(4, b"BLOB", b"8", definition=b"SELECT pg_catalog.lo_create('8');\n", owner=b"bob"),
        entry(
            5, b"COMMENT", b"LARGE OBJECT 7", definition=b"COMMENT ON LARGE OBJECT 7 IS 'it''s\n\\\\';\n",
            dependencies=[b"3"],
        ),
        entry(6, b"ACL", b"LARGE OBJECT 7", definition=REVOKE + GRANTS, dependencies=[b"3"]),
    )  # fmt: skip
    assert found == {
        7: {"owner": "alice", "comment": "it's\n\\\\", "privileges": READ},
        8: {"owner": "bob", "comment": None, "privileges": {"SELECT bob", "UPDATE bob"}},
    }


def test_groups_have_the_privileges_of_their_first_and_comments_are_of_one():
    found = read(
        entry(2, b"STDSTRINGS", b"STDSTRINGS", definition=b"SET standard_conforming_strings = 'off';\n"),
        entry(3, b"BLOB METADATA", b"7..9", definition=b"7\n9\n", owner=b"alice"),
        entry(4, b"BLOB METADATA", b"8", definition=b"8\n", owner=b"bob"),
        entry(
            5,
            b"COMMENT",
            b"LARGE OBJECT 9",
            definition=b"COMMENT ON LARGE OBJECT 9 IS 'a\\\\b';\n",
            dependencies=[b"3"],
        ),
        entry(6, b"ACL", b"LARGE OBJECTS 7..9", definition=GRANTS, dependencies=[b"3"]),
        entry(10, b"COMMENT", b"TABLE t", definition=b"COMMENT ON LARGE OBJECT 8 IS 'x';\n", dependencies=[b"1"]),
    )
    kept = {"SELECT alice", "UPDATE alice", *READ}
    assert found == {
        7: {"owner": "alice", "comment": None, "privileges": kept},
        9: {"owner": "alice", "comment": "a\\b", "privileges": kept},
        8: {"owner": "bob", "comment": None, "privileges": {"SELECT bob", "UPDATE bob"}},
    }
