"""Subscriptions, whose slots on other servers may be in use by the database that was backed up."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import psycopg

from airflow_pg_s3.core.postgres.encodings import as_text, in_session
from airflow_pg_s3.core.postgres.sql_text import quote_name

_Connection = psycopg.Connection[tuple[Any, ...]]
_OF_DATABASE = """
select subname, subslotname, subenabled from pg_subscription
where subdbid = (select oid from pg_database where datname = coalesce(%s, current_database())) order by subname
"""


class Subscription(NamedTuple):
    """A subscription.

    :param slot: its slot on the publisher; None if it is detached.
    """

    name: str
    slot: str | None
    is_enabled: bool

    @property
    def is_attached(self) -> bool:
        """True if the subscription has a slot, which would be dropped with it, or is enabled."""
        return self.is_enabled or self.slot is not None


def subscriptions_of(connection: _Connection, database: str | None = None) -> list[Subscription]:
    """Return the subscriptions of a database on the server.

    :param database: the database; None for the one that `connection` is connected to.
    """
    return [
        Subscription(as_text(name), None if slot is None else as_text(slot), is_enabled)
        for name, slot, is_enabled in connection.execute(_OF_DATABASE, [database]).fetchall()
    ]


def detach(connection: _Connection, names: Collection[str]) -> list[Subscription]:
    """Detach subscriptions of the connected database from their slots, which stay on the publishers.

    Neither this nor a later DROP SUBSCRIPTION connects to a publisher, and both can run in a transaction.

    :return: the subscriptions that were attached, as they were.
    """
    found = [each for each in subscriptions_of(connection) if each.name in names and each.is_attached]
    for each in found:
        alter = f"alter subscription {quote_name(each.name)}"
        connection.execute(in_session(f"{alter} disable", connection))
        connection.execute(in_session(f"{alter} set (slot_name = none)", connection))
    return found


def detach_restored(connection: _Connection, names: Collection[str], warn: Callable[[str], None]) -> None:
    """Detach restored subscriptions from their slots, which the source may be using.

    :param warn: called with a sentence for each.
    """
    for each in detach(connection, names):
        warn(
            f"subscription {each.name} was restored without its slot {each.slot}, which may serve the source: "
            "it receives nothing until ALTER SUBSCRIPTION gives it a slot (SET (slot_name = ...)) and enables it "
            "(ENABLE)"
        )


def drop_subscriptions(connection: _Connection) -> None:
    """Drop the subscriptions of the connected database, as they would prevent its drop; their slots stay."""
    names = [each.name for each in subscriptions_of(connection)]
    detach(connection, names)
    for name in names:
        connection.execute(in_session(f"drop subscription {quote_name(name)}", connection))
