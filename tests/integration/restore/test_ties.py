"""A table restored among others has what tied it to them; or that is told, by name."""

import pytest

from testkit.database_equality import compare_databases
from testkit.postgres import Cluster
from tests.integration.conftest import only_on
from tests.support.sampling import combine

pytestmark = only_on("moto")

SHOP = """
create table orders (id int primary key); insert into orders values (1), (2);
create table permitted (id int);
create sequence numbers;
create type state as enum ('new', 'sent');
create function note() returns trigger language plpgsql as 'begin return new; end';
create table parent (i int);
create table items (
    id int primary key, order_id int references orders, number int default nextval('numbers'),
    at state default 'new',
    next int references items, parts int
) inherits (parent);
insert into items (id, order_id, i) values (1, 1, 10), (2, 2, 20);
comment on constraint items_order_id_fkey on items is 'no item without an order';
comment on column items.number is 'in a row';
create trigger noted before insert on items for each row execute function note();
alter table items enable row level security;
create policy known on items using (order_id in (select id from permitted));
create rule kept as on delete to items do instead nothing;
create statistics together on order_id, number from items;
create index by_order on items (order_id);
create publication ours for table orders, items (id, order_id);
create table events (at int primary key) partition by range (at);
create index by_at on events ((at + 1));
create table early partition of events for values from (0) to (10);
create table late partition of events for values from (10) to (20);
insert into events values (1), (11);
"""


@pytest.fixture
def shop(pg16: Cluster, new_database) -> str:
    return new_database(pg16, SHOP)


HOW = [{"if_exists": "clean"}, {"if_exists": "clean", "single_transaction": False},
       {"if_exists": "clean", "managed_service": True}, {"if_exists": "fail"}]  # fmt: skip


@pytest.mark.parametrize(("how", "table"), combine(HOW, ["items", "early"], name="among the others"), ids=str)
def test_a_table_is_as_it_was_among_the_others(
    pg16: Cluster, shop: str, new_database, back_up, restore, table: str, how: dict
) -> None:
    backup = back_up(pg16, shop)
    copy = new_database(pg16, template=shop)
    spoil = f"drop table {table}" if how["if_exists"] == "fail" else f"alter table {table} set (fillfactor = 50)"
    pg16.psql(spoil, copy)
    assert compare_databases(pg16.dsn(shop), pg16.dsn(copy)) != []
    done = restore(pg16, copy, backup=backup["uri"], tables=[table], **how)
    assert done["warnings"] == []
    assert compare_databases(pg16.dsn(shop), pg16.dsn(copy)) == []


LACKING = {
    "no table": "alter table items drop constraint items_order_id_fkey; "
    " drop table orders cascade; create table orders (id text primary key)",
    "no key": "alter table orders drop constraint orders_pkey cascade",
    "no row": "alter table items drop constraint items_order_id_fkey; delete from orders where id = 2",
    "no publication": "drop publication ours",
}
KEY = "FK CONSTRAINT public.items items_order_id_fkey"
SAID = {
    "no table": f'{KEY}: foreign key constraint "items_order_id_fkey" cannot',
    "no key": f"{KEY}: there is no unique constraint matching given keys",
    "no row": f'{KEY}: insert or update on table "items" violates',
    "no publication": 'PUBLICATION TABLE public.ours items: publication "ours" does not exist',
}


@pytest.mark.parametrize(
    ("lacking", "single_transaction"), combine(LACKING, [True, False], name="what the others lack")
)
def test_what_the_others_do_not_let_it_have_is_told(
    pg16: Cluster, shop: str, new_database, back_up, restore, capfd, lacking: str, single_transaction: bool
) -> None:
    backup = back_up(pg16, shop)
    copy = new_database(pg16, template=shop)
    pg16.psql(LACKING[lacking], copy)
    done = restore(
        pg16, copy, backup=backup["uri"], tables=["items"], if_exists="clean",
        single_transaction=single_transaction,
    )  # fmt: skip
    (warning,) = done["warnings"]
    assert warning.startswith(f"left out: {SAID[lacking]}")
    assert warning in capfd.readouterr().out
    assert pg16.psql("select count(*) from items", copy).strip() == "2"


def test_a_table_alone_in_a_new_database_is_told_to_be_without_its_keys(
    pg16: Cluster, shop: str, new_name, back_up, restore
) -> None:
    done = restore(pg16, new_name(pg16), backup=back_up(pg16, shop)["uri"], tables=["items"])
    assert [warning.partition(": ")[2].partition(":")[0] for warning in done["warnings"]] == [
        "FK CONSTRAINT public.items items_order_id_fkey", "PUBLICATION TABLE public.ours items",
    ]  # fmt: skip
    assert done["warnings"][0].endswith("(select it too, if it is wanted: tables=['public.orders'])")
