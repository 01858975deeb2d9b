"""Tables in a log are aligned, ages are said to a useful precision, and lines and bars tell the same bytes."""

import re
from types import SimpleNamespace

import pytest

from airflow_pg_s3.core.reporting import aligned, byte_progress, human_age, near, plural


def test_columns_are_as_wide_as_their_widest_cell_and_numbers_end_where_their_header_ends():
    assert aligned(
        ("name", "rows", "labels"), [("a", "1", ""), ("longer", "12,345", "x=y")], numbers=["rows"]
    ) == [
        "name      rows  labels",
        "a            1",
        "longer  12,345  x=y",
    ]


def test_a_table_without_rows_is_its_header():
    assert aligned(("a", "b"), []) == ["a  b"]


def test_numbers_of_things_have_their_plural_and_groups_of_digits():
    assert [plural(number, "row") for number in (0, 1, 20_500)] == ["0 rows", "1 row", "20,500 rows"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (26 * 3600, "26 h"),
        (48 * 3600 - 1, "47 h"),
        (48 * 3600, "2 d"),
        (400 * 86400, "400 d"),
        (-7200, "2 h"),
    ],
)
def test_an_age_has_two_or_three_digits_at_most_days(seconds, said):
    assert human_age(seconds) == said


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("public.line", ["public.lines"]),
        ("public.order", ["public.orders"]),
        ("sales.orders", ["public.orders"]),
        ("public.x", []),
        ("pulbic.big", ["public.big"]),
        ("public.ORDERS", ["public.orders"]),
        ('"public"."Lines"', ["public.lines"]),
    ],
)
def test_what_is_near_has_more_in_common_than_its_schema(typed, meant):
    names = [f"public.{name}" for name in ("big", "customers", "invoice_no", "lines", "orders")]
    assert near(typed, names) == meant


def test_a_bar_and_the_line_beside_it_tell_the_same_bytes():
    shown = []
    log = SimpleNamespace(info=lambda *_: None, show_progress=lambda *bar: shown.append(bar))
    byte_progress(log, "loaded", lambda: 1_000_000, 4_000_000, of=" of the large tables").tick()
    ((line, done, total),) = shown
    assert re.fullmatch(r"loaded 1\.0 MB of 4\.0 MB of the large tables, [0-9.]+ [MG]B/s", line)
    assert (done, total) == (1_000_000, 4_000_000)
