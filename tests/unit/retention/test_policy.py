"""Retention rules: golden tables around clock changes, and what must hold for any backups and any rules."""

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.retention.policy import RetentionPolicy, plan

RULES = ("keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu",
         "Antarctica/Troll", "Africa/Monrovia", "America/St_Johns")  # fmt: skip


def id_of(when, number=0):
    return f"{when.astimezone(UTC):%Y%m%dT%H%M%SZ}-{number:06x}"


def at(text):
    """20261122T030000Z of `2026-11-22 03:00`, in UTC; also with an offset."""
    when = datetime.fromisoformat(text)
    return id_of(when if when.tzinfo else when.replace(tzinfo=UTC))


def kept(times, timezone="UTC", **rules):
    """Time as it was given → the rules that keep it."""
    names = {at(text): text for text in times}
    reasons = plan(names, RetentionPolicy(timezone=timezone, **rules)).reasons()
    return {names[backup_id]: why for backup_id, why in reasons.items()}


# -- tables ------------------------------------------------------------------------------------------------------


def test_the_newest_of_each_bucket_is_kept_and_empty_buckets_do_not_count():
    times = ["2026-11-22 03:00", "2026-11-22 01:00", "2026-11-20 23:00", "2026-11-20 02:00", "2026-10-05 02:00"]
    assert kept(times, keep_daily=2) == {
        "2026-11-22 03:00": ["daily 2026-11-22"],
        "2026-11-20 23:00": ["daily 2026-11-20"],
    }


def test_the_rules_are_a_union_and_each_says_why():
    times = [f"{year}-{month:02}-01 00:00" for year in (2026, 2025) for month in range(12, 0, -1)]
    assert kept(times, keep_last=2, keep_daily=1, keep_monthly=3, keep_yearly=2) == {
        "2026-12-01 00:00": ["last 1", "daily 2026-12-01", "monthly 2026-12", "yearly 2026"],
        "2026-11-01 00:00": ["last 2", "monthly 2026-11"],
        "2026-10-01 00:00": ["monthly 2026-10"],
        "2025-12-01 00:00": ["yearly 2025"],
    }


def test_backups_of_one_second_are_told_apart_by_the_rest_of_their_ids():
    when = datetime(2026, 11, 22, 3, tzinfo=UTC)
    ids = [id_of(when, number) for number in (3, 1, 2)]
    assert plan(ids, RetentionPolicy(keep_daily=5)).reasons() == {id_of(when, 3): ["daily 2026-11-22"]}
    assert plan(ids, RetentionPolicy(keep_last=2)).kept == {id_of(when, 3), id_of(when, 2)}


@pytest.mark.parametrize(
    ("timezone", "rule", "times"),
    [
        # Spring: 01:59 is followed by 03:00. Every hour has its backup, and none is missed.
        ("Europe/Berlin", "hourly", {
            "2026-03-29 00:30": "2026-03-29 01h",
            "2026-03-29 01:00": None,
            "2026-03-29 01:59": "2026-03-29 03h",
            "2026-03-29 02:00": "2026-03-29 04h",
        }),
        # Autumn: 02:00 to 02:59 comes twice, and is one bucket.
        ("Europe/Berlin", "hourly", {
            "2026-10-24 23:59": "2026-10-25 01h",
            "2026-10-25 00:10": None,
            "2026-10-25 01:50": "2026-10-25 02h",
            "2026-10-25 02:00": "2026-10-25 03h",
        }),
        # A day of 25 hours, and where it begins and ends.
        ("Europe/Berlin", "daily", {
            "2026-10-24 21:59": "2026-10-24",
            "2026-10-24 22:00": None,
            "2026-10-25 22:59": "2026-10-25",
            "2026-10-25 23:00": "2026-10-26",
        }),
        # A day of 23 hours.
        ("America/New_York", "daily", {
            "2026-03-08 04:59": "2026-03-07",
            "2026-03-08 05:00": None,
            "2026-03-09 03:59": "2026-03-08",
            "2026-03-09 04:00": "2026-03-09",
        }),
        ("America/New_York", "hourly", {
            "2026-11-01 05:15": None,  # 01:15 EDT
            "2026-11-01 06:15": "2026-11-01 01h",  # 01:15 EST
            "2026-11-01 07:15": "2026-11-01 02h",
        }),
        # Half an hour forward at 15:30 UTC: 02:00 to 02:29 is missing. Back at 15:00: 01:30 to 01:59 comes twice.
        ("Australia/Lord_Howe", "hourly", {
            "2026-10-03 15:29": "2026-10-04 01h",
            "2026-10-03 15:30": None,
            "2026-10-03 15:59": "2026-10-04 02h",
            "2026-10-03 16:00": "2026-10-04 03h",
        }),
        ("Australia/Lord_Howe", "hourly", {
            "2026-04-04 14:00": None,
            "2026-04-04 14:59": None,
            "2026-04-04 15:29": "2026-04-05 01h",
            "2026-04-04 15:30": "2026-04-05 02h",
        }),
        # Samoa had no 30 December 2011.
        ("Pacific/Apia", "daily", {
            "2011-12-29 09:59": "2011-12-28",
            "2011-12-29 10:00": None,
            "2011-12-30 09:59": "2011-12-29",
            "2011-12-30 10:00": None,
            "2011-12-31 09:59": "2011-12-31",
            "2011-12-31 10:00": "2012-01-01",
        }),
        ("UTC", "daily", {
            "2028-02-28 12:00": "2028-02-28",
            "2028-02-29 00:00": None,
            "2028-02-29 23:59:59": "2028-02-29",
            "2028-03-01 00:00": "2028-03-01",
        }),
        ("UTC", "monthly", {
            "2100-02-28 23:59": "2100-02",  # no leap year
            "2100-03-01 00:00": "2100-03",
        }),
        ("UTC", "yearly", {
            "2028-12-31 23:59:59": "2028",
            "2029-01-01 00:00": "2029",
        }),
        # 2026 has 53 weeks: the last one begins on Monday 28 December and ends on Sunday 3 January 2027.
        ("UTC", "weekly", {
            "2026-12-27 23:59": "2026-W52",
            "2026-12-28 00:00": None,
            "2027-01-01 00:00": None,
            "2027-01-03 23:59": "2026-W53",
            "2027-01-04 00:00": "2027-W01",
        }),
        # The week of 1 January may be the last year's, or that of 31 December the next year's.
        ("UTC", "weekly", {
            "2024-12-29 23:59": "2024-W52",
            "2024-12-30 00:00": None,
            "2025-01-05 00:00": "2025-W01",
        }),
        # The week begins where the users are.
        ("America/New_York", "weekly", {
            "2026-11-16 04:59": "2026-W46",
            "2026-11-16 05:00": "2026-W47",
        }),
    ],
)  # fmt: skip
def test_buckets_are_those_of_the_wall_clock(timezone, rule, times):
    expected = {text: [f"{rule} {bucket}"] for text, bucket in times.items() if bucket}
    assert kept(times, timezone, **{f"keep_{rule}": 99}) == dict(reversed(expected.items()))


def test_the_ends_of_the_calendar_do_not_break_a_plan():
    ids = ["99991231T235959Z-000000", "20261122T030000Z-000000", "00010101T000000Z-000000"]
    for timezone in ("UTC", "Pacific/Kiritimati", "America/New_York"):
        rules = dict.fromkeys(RULES[1:], 9)
        assert list(plan(ids, RetentionPolicy(timezone=timezone, **rules)).reasons()) == ids


# -- what is refused ---------------------------------------------------------------------------------------------


def test_no_rule_at_all_is_refused_rather_than_everything_deleted():
    for rules in ({}, dict.fromkeys(RULES, 0)):
        with pytest.raises(InputError, match=r"no rule says what to keep.*keep_last, keep_hourly.*keep_yearly"):
            RetentionPolicy(**rules)


@pytest.mark.parametrize("rule", RULES)
def test_a_negative_number_is_refused(rule):
    with pytest.raises(InputError, match=rf"{rule} must be .* at least 0, not -1"):
        RetentionPolicy(**{"keep_daily": 7, rule: -1})


@pytest.mark.parametrize("name", ["Europe/Berlim", "", "../etc/passwd", "Europe", "/etc/localtime", "a\0b"])
def test_an_unknown_time_zone_is_refused(name):
    with pytest.raises(InputError, match=r"timezone must be the IANA name of a time zone such as Europe/Berlin"):
        RetentionPolicy(keep_daily=1, timezone=name)


# -- what holds for all ------------------------------------------------------------------------------------------

LABELS = {
    "keep_hourly": "%Y-%m-%d %H",
    "keep_daily": "%Y-%m-%d",
    "keep_weekly": "%G week %V",
    "keep_monthly": "%Y-%m",
    "keep_yearly": "%Y",
}


def oracle(ids, timezone, **rules):
    """The same, slowly: sort each backup into a box with its bucket's name on it."""
    keep = set(sorted(ids)[::-1][: rules.get("keep_last", 0)])
    for rule, label in LABELS.items():
        boxes = {}
        for backup_id in sorted(ids):
            when = datetime.strptime(backup_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            boxes.setdefault(when.astimezone(ZoneInfo(timezone)).strftime(label), []).append(backup_id)
        newest = sorted((max(box) for box in boxes.values()), reverse=True)
        keep |= set(newest[: rules.get(rule, 0)])
    return keep


@st.composite
def backup_ids(draw):
    """Backups over some years, with many close to one another, also around a change of the clock."""
    start = draw(
        st.sampled_from(
            [
                datetime(2026, 3, 29, 0, 30, tzinfo=UTC),
                datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
                datetime(2026, 4, 4, 14, 30, tzinfo=UTC),
                datetime(2026, 11, 1, 5, tzinfo=UTC),
                datetime(2011, 12, 30, 9, tzinfo=UTC),
                datetime(1972, 1, 7, 0, 30, tzinfo=UTC),
                datetime(2028, 2, 29, 12, tzinfo=UTC),
                datetime(2021, 1, 1, tzinfo=UTC),
            ]
        )
    )
    minutes = st.one_of(st.integers(-240, 240), st.integers(-5000, 5000), st.integers(-2_000_000, 2_000_000))
    steps = draw(st.lists(st.tuples(minutes, st.integers(0, 59), st.integers(0, 2)), min_size=1, max_size=60))
    return list({id_of(start + timedelta(minutes=m, seconds=s), number) for m, s, number in steps})


numbers = st.one_of(st.integers(0, 5), st.integers(0, 60))
retentions = st.dictionaries(st.sampled_from(RULES), numbers, min_size=1).filter(lambda rules: any(rules.values()))
zones = st.sampled_from(ZONES)


def keeps(ids, zone, rules):
    return plan(ids, RetentionPolicy(timezone=zone, **rules)).kept


@given(backup_ids(), zones, retentions)
def test_the_plan_is_the_oracles(ids, zone, rules):
    planned = plan(ids, RetentionPolicy(timezone=zone, **rules))
    assert planned.kept == oracle(ids, zone, **rules)
    reasons = planned.reasons()
    assert list(reasons) == sorted(planned.kept, reverse=True)
    assert all(reasons.values())
    counts = {
        rule: sum(why.startswith(rule[5:]) for all_of in reasons.values() for why in all_of) for rule in RULES
    }
    assert all(counts[rule] <= rules.get(rule, 0) for rule in RULES)


@given(backup_ids(), st.sampled_from(sorted(available_timezones())), retentions)
def test_the_plan_is_the_oracles_in_any_zone(ids, zone, rules):
    assert keeps(ids, zone, rules) == oracle(ids, zone, **rules)


@given(backup_ids(), zones, retentions)
def test_the_newest_is_always_kept(ids, zone, rules):
    assert max(ids) in keeps(ids, zone, rules)


@given(backup_ids(), zones, retentions)
def test_what_was_kept_is_kept_again(ids, zone, rules):
    once = keeps(ids, zone, rules)
    assert keeps(once, zone, rules) == once


@given(backup_ids(), zones, retentions, st.sampled_from(RULES), st.integers(1, 9))
def test_a_larger_number_never_keeps_less(ids, zone, rules, rule, more):
    assert keeps(ids, zone, rules) <= keeps(ids, zone, rules | {rule: rules.get(rule, 0) + more})


@given(backup_ids(), zones, retentions, st.data())
def test_older_backups_change_nothing_for_the_younger_ones(ids, zone, rules, data):
    younger = set(sorted(ids, reverse=True)[: data.draw(st.integers(1, len(ids)))])
    assert keeps(ids, zone, rules) & younger == keeps(younger, zone, rules)


@given(backup_ids(), zones, retentions, st.data())
def test_younger_backups_bring_nothing_back(ids, zone, rules, data):
    older = set(sorted(ids)[: data.draw(st.integers(1, len(ids)))])
    assert keeps(ids, zone, rules) & older <= keeps(older, zone, rules)


@given(backup_ids(), zones, retentions, st.randoms())
def test_the_order_of_the_ids_does_not_matter(ids, zone, rules, random):
    shuffled = random.sample(ids, len(ids))
    assert keeps(shuffled, zone, rules) == keeps(ids, zone, rules)


# -- speed -------------------------------------------------------------------------------------------------------


def test_a_million_backups_are_planned(capsys):
    newest = datetime(2026, 11, 22, 23, 59, tzinfo=UTC)
    hours = [f"{newest - timedelta(hours=number):%Y%m%dT%H}" for number in range(250_000)]
    ids = [f"{hour}{minute}00Z-000000" for hour in hours for minute in (45, 30, 15, "00")]
    timezone = "Australia/Lord_Howe"
    usual = dict(keep_last=7, keep_hourly=48, keep_daily=30, keep_weekly=8, keep_monthly=12, keep_yearly=10)
    for rules in (usual, dict.fromkeys(RULES[1:], 10**9)):
        retention = RetentionPolicy(timezone=timezone, **rules)
        wall, cpu = time.perf_counter(), time.thread_time()
        planned = plan(ids, retention)
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        with capsys.disabled():
            print(f"\n  {len(ids):,} ids, {timezone}: {len(planned.kept):,} kept: {wall:.2f} s, CPU {cpu:.2f} s")
        assert ids[0] in planned.kept
        assert keeps(planned.kept, timezone, rules) == planned.kept
