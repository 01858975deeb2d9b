"""Of definitions that differ, what opens other servers is not shown; every other line is, in its place."""

import pytest

from airflow_pg_s3.core.verify.comparison.schema_diff import shown_lines


def show(kind: str, text: str, *, backslashes: bool = False) -> list[str]:
    return shown_lines(kind, text.split("\n"), backslashes=backslashes)


def test_strings_of_user_mappings_are_hidden_and_names_and_lines_stay() -> None:
    text = (
        "CREATE USER MAPPING FOR u SERVER s OPTIONS (\n    password 'SEC''\nRET',\n    \"user\" E'\\'SECRET'\n);"
    )
    assert show("USER MAPPING", text) == [
        "CREATE USER MAPPING FOR u SERVER s OPTIONS (",
        "    password (not shown)",
        ",",
        '    "user" E(not shown)',
        ");",
    ]


def test_backslashes_that_escape_are_heeded() -> None:
    assert show("SERVER", r"x OPTIONS (a '\'SECRET');", backslashes=True) == ["x OPTIONS (a (not shown));"]


def test_what_cannot_be_told_apart_is_hidden_whole() -> None:
    assert show("SUBSCRIPTION", "CREATE SUBSCRIPTION s\nCONNECTION 'SECRET") == ["(not shown)", "(not shown)"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nf('host=h password=SECRET');\nb", ["a", "f('host=h password=(not shown)", "b"]),
        (
            "ALTER ROLE r PASSWORD 'SECRET\nSECRET\nSECRET';\nb",
            ["ALTER ROLE r PASSWORD (not shown)", "(not shown)", "(not shown)", "b"],
        ),
        ("a PASSWORD\n'SECRET';\nb'", ["a PASSWORD (not shown)", "(not shown)", "b'"]),
        # Code, which may be what differs.
        ("  u.password\n  FROM t\n WHERE u.x > 1", ["  u.password (not shown)", "(not shown)", " WHERE u.x > 1"]),
        ("u.password = crypt(p, u.password)\nb", ["u.password =(not shown)", "b"]),
        ("f('password=SECRET\nSECRET')\nb", ["f('password=(not shown)", "(not shown)", "b"]),
        ("f('mysql://me:SECRET@host/')\nb", ["f('mysql://me:(not shown)", "b"]),
        ("password text NOT NULL,\nb text DEFAULT 'x'", ["password text NOT NULL,", "b text DEFAULT 'x'"]),
    ],
)
def test_elsewhere_passwords_are_hidden_to_the_end_of_their_string(text: str, shown: list[str]) -> None:
    assert show("FUNCTION", text) == shown
