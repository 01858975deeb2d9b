"""Functions without a search path are told from all that is really missing."""

import pytest

from airflow_pg_s3.core.errors import ClientProgramError, ServerError
from airflow_pg_s3.core.search_path import advice, function_without_schemas

SQL = """pg_restore: error: could not execute query: ERROR:  function lowered(text) does not exist
LINE 1: select lowered(t)
               ^
HINT:  No function matches the given name and argument types. You might need to add explicit type casts.
QUERY:  select lowered(t)
CONTEXT:  SQL function "key_of" during inlining
Command was: CREATE INDEX t_key ON public.t USING btree (public.key_of(x));"""
PLPGSQL = """relation "other" does not exist
LINE 1: exists (select from other where i = n)
                            ^
QUERY:  exists (select from other where i = n)
CONTEXT:  PL/pgSQL function public.ok(integer) line 1 at RETURN
COPY t, line 1: (not shown)"""
DECLARED = """type "mood" does not exist
CONTEXT:  compilation of PL/pgSQL function "ok" near line 3"""


@pytest.mark.parametrize(
    ("said", "function"), [(SQL, "key_of"), (PLPGSQL, "public.ok(integer)"), (DECLARED, "ok")],
    ids=["sql", "plpgsql", "declared"],
)  # fmt: skip
def test_the_function_is_named(said, function):
    assert function_without_schemas(said) == function
    assert str(ServerError(said)) == said + advice(said)
    assert str(ClientProgramError("pg_restore", 1, said)).endswith(said + advice(said))


@pytest.mark.parametrize(
    "said",
    [
        'relation "other" does not exist',
        SQL.replace("lowered(text)", "public.lowered(text)"),
        PLPGSQL.replace('"other"', '"public.other"'),
        PLPGSQL.replace("does not exist", "is locked"),
        'error: relation "other" does not exist\nerror: division by zero\n'
        "CONTEXT:  PL/pgSQL function ok() line 1 at RETURN",
    ],
    ids=["no function", "sql with a schema", "plpgsql with a schema", "another error", "two errors"],
)
def test_all_else_gets_no_advice(said):
    assert advice(said) == ""
