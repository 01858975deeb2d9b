"""What pg_restore does first, what we load, what is built at once, and what comes last."""

from airflow_pg_s3.core.postgres.archive.toc import Toc, parse_toc
from airflow_pg_s3.core.restore.load.plan import Plan, divide, made_by, make_plan
from testkit.toc_writer import entry, table_of_contents

PRE, DATA, POST, NONE = 2, 3, 4, 1


def table(number: int, name: str, **fields: object) -> bytes:
    return entry(number, b"TABLE", name.encode(), schema=b"public", section=PRE, **fields)


def rows(number: int, name: str, of: int, *, into: str | None = None) -> bytes:
    return entry(
        number,
        b"TABLE DATA",
        name.encode(),
        schema=b"public",
        section=DATA,
        has_data=1,
        copy=f"COPY public.{into or name} (a) FROM stdin;\n".encode(),
        file=f"{number}.dat".encode(),
        dependencies=[str(of).encode()],
    )


def index(
    number: int, *needs: int, kind: bytes = b"INDEX", definition: bytes = b"ALTER TABLE ONLY t ADD"
) -> bytes:
    dependencies = [str(need).encode() for need in needs]
    return entry(
        number,
        kind,
        b"i%d" % number,
        schema=b"public",
        section=POST,
        dependencies=dependencies,
        definition=definition,
    )


def toc_of(*entries: bytes) -> Toc:
    return parse_toc(table_of_contents(*entries))


def plan_of(toc: Toc, *, ours: set[int], jobs: int = 2) -> Plan:
    return make_plan(
        toc,
        toc.entries,
        made=made_by(toc.entries),
        is_ours=lambda data: data.dump_id in ours,
        builds_at_once=lambda data: True,
        jobs=jobs,
    )


def ids(entries) -> list[int]:
    return [entry.dump_id for entry in entries]


def test_what_is_not_ours_is_for_pg_restore_in_two_parts_around_the_rows():
    toc = toc_of(
        table(10, "large"),
        entry(11, b"COMMENT", b"TABLE large", section=NONE, dependencies=[b"10"]),
        entry(12, b"ACL", b"TABLE large", section=NONE, dependencies=[b"10"]),
        table(13, "small"),
        rows(20, "large", 10),
        rows(21, "small", 13),
        entry(22, b"SEQUENCE SET", b"s", section=DATA),
        entry(23, b"STATISTICS DATA", b"large", section=DATA, dependencies=[b"10"]),
        index(30, 13),
        entry(31, b"COMMENT", b"INDEX i30", section=NONE, dependencies=[b"30"]),
        entry(32, b"FK CONSTRAINT", b"f", section=POST, dependencies=[b"10", b"30"]),
        entry(33, b"EVENT TRIGGER", b"e", section=POST),
        entry(34, b"COMMENT", b"EVENT TRIGGER e", section=NONE, dependencies=[b"33"]),
    )
    plan = plan_of(toc, ours={20})
    assert ids(plan.first) == [1, 10, 11, 13, 21, 22]
    assert [(copy.entry.dump_id, copy.is_new, copy.target.command) for copy in plan.copies] == [
        (20, True, b'COPY "public"."large" ("a") FROM STDIN')
    ]
    assert [ids(run.entries) for run in plan.rest] == [[12, 23, 30, 31, 32, 33, 34]]


def test_large_objects_are_ours_but_for_their_definitions():
    toc = toc_of(
        entry(5, b"BLOB METADATA", b"16401", section=DATA),
        entry(6, b"BLOBS", b"BLOBS", section=DATA, has_data=1, file=b"blobs_5.toc", dependencies=[b"5"]),
    )
    plan = plan_of(toc, ours=set())
    assert (ids(plan.first), ids(plan.large_objects), plan.rest) == ([1, 5], [6], [])


def test_only_a_table_that_the_restore_itself_makes_is_new():
    toc = toc_of(
        table(10, "made"),
        table(11, "leaf"),
        rows(20, "made", 10),
        rows(21, "leaf", 11, into="root"),  # through the root, which others fill as well
        rows(22, "of_an_extension", 99),  # which has put rows of its own there
    )
    plan = plan_of(toc, ours={20, 21, 22})
    assert [(copy.entry.dump_id, copy.is_new) for copy in plan.copies] == [(20, True), (21, False), (22, False)]
    data = toc.entries[3:]
    for made, is_new in (((), False), ({10, 11}, True)):  # by nobody, or by other means
        plan = make_plan(toc, data, made=made, is_ours=lambda _: True, builds_at_once=lambda _: True, jobs=2)
        assert [copy.is_new for copy in plan.copies] == [is_new, False, False]


def test_what_needs_the_rows_of_one_table_alone_is_built_as_soon_as_they_are_there():
    toc = toc_of(
        entry(9, b"FUNCTION", b"f()", schema=b"public", section=PRE),
        table(10, "a"),
        table(11, "b"),
        rows(20, "a", 10),
        rows(21, "b", 11),
        index(30, 10, kind=b"CONSTRAINT"),
        index(31, 10, 9999),  # and something that is in no archive
        index(32, 11),
        index(33, 10, 11),  # of both
        index(34, 10, 33),  # of what comes last
        index(35, 10, kind=b"TRIGGER"),
        index(36, 10, 9),  # of a function, which may read the other table
        # A NOT NULL that tables inherit whose rows are still to come.
        index(
            37, 10, kind=b"CONSTRAINT", definition=b"ALTER TABLE public.a ADD CONSTRAINT n NOT NULL a NOT VALID"
        ),
    )
    plan = plan_of(toc, ours={20, 21})
    assert [[ids(build) for build in copy.builds] for copy in plan.copies] == [[[30], [31]], [[], [32]]]
    assert [ids(run.entries) for run in plan.rest] == [[33, 34, 35, 36, 37]]
    # The rows of b come with the first run, but those of a do not: nothing else changes for a.
    alone = plan_of(toc, ours={20})
    assert [[ids(build) for build in copy.builds] for copy in alone.copies] == [[[30], [31]]]
    assert [ids(run.entries) for run in alone.rest] == [[32, 33, 34, 35, 36, 37]]


def test_tables_of_extensions_are_loaded_one_after_the_other_in_the_order_of_the_archive():
    toc = toc_of(table(10, "a"), rows(20, "z", 99), rows(21, "a", 10), rows(22, "y", 98), rows(23, "x", 97))
    plan = plan_of(toc, ours={20, 21, 22, 23})
    assert [(copy.entry.dump_id, tuple(copy.after)) for copy in plan.copies] == [
        (20, ()), (21, ()), (22, (20,)), (23, (22,)),
    ]  # fmt: skip


def test_grants_of_others_than_owners_get_a_run_of_their_own_between_the_others():
    grants = b"SET SESSION AUTHORIZATION a;\nGRANT SELECT ON TABLE public.t TO b;\n"
    toc = toc_of(
        index(30, 10),
        entry(40, b"ACL", b"TABLE t", section=NONE, definition=grants),
        entry(41, b"DEFAULT ACL", b"x", section=POST, definition=b"ALTER DEFAULT PRIVILEGES"),
        entry(42, b"MATERIALIZED VIEW DATA", b"m", section=POST),
    )
    entries = toc.entries[1:]
    runs = [(ids(run.entries), run.is_serial) for run in divide(entries, jobs=2)]
    assert runs == [([30], False), ([40, 41], True), ([42], False)]
    assert [ids(run.entries) for run in divide(entries, jobs=1)] == [[30, 40, 41, 42]]
    assert [ids(run.entries) for run in divide(entries[:1] + entries[2:], jobs=2)] == [[30, 41, 42]]
    assert divide([], jobs=2) == []
