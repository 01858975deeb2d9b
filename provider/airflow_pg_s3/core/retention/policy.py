"""Which backups a set of retention rules keeps. No I/O: ids in, ids and rules out.

An id begins with the time of its backup, in UTC. For a rule such as `keep_daily` that time is read on the wall
clock of a time zone, and falls into the bucket of its day. Of the N newest buckets that hold a backup, the newest
backup of each is kept: days without one use nothing up. restic and borg count in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from airflow_pg_s3.core.errors import InputError

_DAY_SECONDS = 86400
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, kw_only=True)
class RetentionPolicy:
    """How many backups to keep; each rule by itself, and what any of them keeps is kept. 0 turns a rule off.

    :param keep_last: the newest so many, whenever they were made.
    :param keep_hourly: the newest backup of each of so many hours. The hour that the clock shows twice when
        daylight saving ends is one.
    :param keep_weekly: weeks as ISO 8601 has them, from Monday.
    :param timezone: IANA name of the time zone whose clock tells hours, days, weeks, months and years.
    :raises InputError: a negative number, no rule at all, or no such time zone.
    """

    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        rules = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "timezone"}
        for name, number in rules.items():
            if number < 0:
                raise InputError(f"{name} must be a number of backups to keep, at least 0, not {number}")
        if not any(rules.values()):
            raise InputError(f"no rule says what to keep, and nothing is deleted: give one of {', '.join(rules)}")
        self.zone()

    def zone(self) -> ZoneInfo:
        """Look the time zone up."""
        try:
            return ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise InputError(
                f"timezone must be the IANA name of a time zone such as Europe/Berlin, not {self.timezone!r}"
            ) from error


class Plan:
    """What is kept, and why.

    :param last: the newest backups, which `keep_last` keeps, newest first.
    :param buckets: of every other rule, by its adjective: number of the bucket → the backup kept for it.
    """

    def __init__(self, last: list[str], buckets: dict[str, dict[int, str]]) -> None:
        self._last = last
        self._buckets = buckets
        self.kept = frozenset(last).union(*(backups.values() for backups in buckets.values()))

    def reasons(self) -> dict[str, list[str]]:
        """Give each backup that is kept its rules, such as ``daily 2026-11-22``; newest first."""
        reasons: dict[str, list[str]] = {backup_id: [] for backup_id in sorted(self.kept, reverse=True)}
        for number, backup_id in enumerate(self._last, 1):
            reasons[backup_id].append(f"last {number}")
        for adjective, backups in self._buckets.items():
            for bucket, backup_id in backups.items():
                reasons[backup_id].append(f"{adjective} {_CALLED[adjective](bucket)}")
        return reasons


def plan(backup_ids: Iterable[str], retention: RetentionPolicy) -> Plan:
    """Say which backups are kept, and by which rules.

    These hold for any ids and rules: the newest is kept; a plan for what was kept keeps all of it; a larger number
    never keeps less; an older backup changes nothing for the younger ones; and a younger one brings nothing back.

    :param backup_ids: well-formed ones, in any order.
    """
    ids = sorted(backup_ids, reverse=True)
    limits = {
        "hourly": retention.keep_hourly,
        "daily": retention.keep_daily,
        "weekly": retention.keep_weekly,
        "monthly": retention.keep_monthly,
        "yearly": retention.keep_yearly,
    }
    buckets: dict[str, dict[int, str]] = {adjective: {} for adjective in limits}
    wanting = {adjective for adjective, limit in limits.items() if limit}
    clock = _WallClock(retention.zone())
    last_hour = last_day = None
    for backup_id in ids:
        if not wanting:
            break
        hour = clock.seconds(backup_id) // 3600
        if hour == last_hour:
            continue
        last_hour = hour
        # Numbers rather than names, as there may be a million of them. Longer spans are made of whole days, so
        # they are asked for once a day.
        numbers = {"hourly": hour}
        if hour // 24 != last_day:
            last_day = hour // 24
            numbers |= _spans(last_day)
        for adjective, bucket in numbers.items():
            if adjective in wanting and bucket not in buckets[adjective]:
                buckets[adjective][bucket] = backup_id
                if len(buckets[adjective]) == limits[adjective]:
                    wanting.remove(adjective)
    return Plan(ids[: retention.keep_last], buckets)


class _WallClock:
    """Reads ids on the wall clock of a time zone.

    Asking the zone for each of a million ids would take seconds. It is asked for its offset at both ends of an UTC
    day, and only where these differ, for each id. No zone of the tz database (all 599 were looked through) leaves
    an offset and returns to it within a day.
    """

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._day = ""
        self._seconds = 0
        self._is_even = True

    def seconds(self, backup_id: str) -> int:
        """Seconds from 1970-01-01 00:00 on the wall clock to the time that it showed."""
        if backup_id[:8] != self._day:
            self._turn_to(backup_id[:8])
        time = int(backup_id[9:15])
        second = time // 10000 * 3600 + time // 100 % 100 * 60 + time % 100
        return self._seconds + second + (0 if self._is_even else self._offset(second))

    def _turn_to(self, day: str) -> None:
        self._day = day
        self._start = datetime(int(day[:4]), int(day[4:6]), int(day[6:]), tzinfo=UTC)
        self._seconds = (self._start.toordinal() - _EPOCH_ORDINAL) * _DAY_SECONDS
        first, last = self._offset(0), self._offset(_DAY_SECONDS - 1)
        self._is_even = first == last
        if self._is_even:
            self._seconds += first

    def _offset(self, second: int) -> int:
        """Offset from UTC, in seconds, at a second of the day."""
        try:
            offset = (self._start + timedelta(seconds=second)).astimezone(self._zone).utcoffset()
        except OverflowError:  # the years 1 and 9999, which a server's clock can be in
            return 0
        return round(offset.total_seconds()) if offset else 0


def _spans(day: int) -> dict[str, int]:
    """Number the buckets that a day falls into, the day itself by its distance from 1970-01-01."""
    when = _date(day)
    # 1970 began on a Thursday; ISO weeks begin on Monday.
    return {
        "daily": day,
        "weekly": (day + 3) // 7,
        "monthly": when.year * 12 + when.month - 1,
        "yearly": when.year,
    }


def _date(day: int) -> date:
    return date.fromordinal(day + _EPOCH_ORDINAL)


def _week(number: int) -> str:
    year, week, _ = _date(number * 7).isocalendar()  # its Thursday, which decides whose year the week is in
    return f"{year}-W{week:02}"


_CALLED: Mapping[str, Callable[[int], str]] = {
    "hourly": lambda hour: f"{_date(hour // 24)} {hour % 24:02}h",
    "daily": lambda day: str(_date(day)),
    "weekly": _week,
    "monthly": lambda month: f"{month // 12:04}-{month % 12 + 1:02}",
    "yearly": lambda year: f"{year:04}",
}
