"""What pg_restore's commands need is read out of them, and nothing that only looks like it."""

import re

from airflow_pg_s3.core.postgres.archive import requirements as needs_module
from airflow_pg_s3.core.postgres.archive.requirements import GRANTEE, NAMED, OWNER, parse

SCRIPT = r"""
SET standard_conforming_strings = on;
SET default_tablespace = '';
CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA public;
COMMENT ON EXTENSION "uuid-ossp" IS 'GRANT ALL TO nobody; ALTER x OWNER TO nobody;';
CREATE FUNCTION public.f() RETURNS void LANGUAGE plpgsql AS $_$ BEGIN GRANT ALL ON t TO nobody; END $_$;
ALTER FUNCTION public.f() OWNER TO "of ""f"" it";
ALTER SCHEMA public OWNER TO "of public";
CREATE COLLATION public."num (x)" (provider = icu, locale = 'und', rules = '&a < (b');
SET default_tablespace = "fast disk";
CREATE TABLE public.t (a text COLLATE pg_catalog."de_DE", b text COLLATE public."num (x)", "OWNER TO" int);
SET SESSION AUTHORIZATION 'a\b';
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION DEFAULT;
CREATE INDEX i ON public.t USING btree (a COLLATE "C");
CREATE POLICY "TO x" ON public.t AS RESTRICTIVE FOR SELECT TO p1, "p 2" USING ((a = ( SELECT 1 TO nobody)));
CREATE POLICY all_of_them ON public.t TO PUBLIC WITH CHECK (true);
CREATE POLICY q ON public.t USING (true);
CREATE USER MAPPING FOR mapped SERVER s OPTIONS ("user" 'x');
CREATE USER MAPPING FOR public SERVER s;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT SELECT(a),UPDATE("TO") ON TABLE public.t TO g1 WITH GRANT OPTION;
SET SESSION AUTHORIZATION "g 2";
REVOKE ALL ON TABLE public.t FROM g3;
ALTER DEFAULT PRIVILEGES FOR ROLE d1 IN SCHEMA public GRANT ALL ON TABLES TO d2, d3;
ALTER DEFAULT PRIVILEGES FOR ROLE d4 REVOKE ALL ON FUNCTIONS FROM PUBLIC;
"""


def test_roles_are_found_with_what_they_are_needed_for() -> None:
    needs = parse(SCRIPT)
    assert needs.roles == {
        'of "f" it': {OWNER},
        "of public": {OWNER},
        "p1": {NAMED},
        "p 2": {NAMED},
        "mapped": {NAMED},
        **{role: {GRANTEE} for role in ("a\\b", "g1", "g 2", "g3", "d1", "d2", "d3", "d4")},
    }
    assert needs.roles_to_become == {'of "f" it', "d1", "d4"}


def test_all_else_is_found() -> None:
    needs = parse(SCRIPT)
    assert needs.extensions == {"uuid-ossp"}
    assert needs.tablespaces == {"fast disk"}
    assert needs.collations == {"de_DE", "C"}
    assert needs.new_collations == {
        "public.num (x)": "( provider = icu , locale = 'und' , rules = '&a < (b' )",
    }


def test_backslashes_hide_nothing_where_the_database_has_them_escape() -> None:
    setting = "\nSET standard_conforming_strings = off;\n"
    assert parse(setting + "COMMENT ON TABLE t IS 'it\\'s';\nGRANT ALL ON t TO r;\n-- it's").roles == {
        "r": {GRANTEE}
    }


def test_the_role_to_restore_as_is_needed() -> None:
    needs = parse('\nSET ROLE "a b";\nSELECT 1;\nSET ROLE NONE;\n')
    assert (needs.roles, needs.roles_to_become) == ({"a b": {OWNER}}, {"a b"})


def test_statements_that_are_not_cut_into_words_need_what_they_would_need_so(monkeypatch):
    script = """
ALTER TABLE public.orders OWNER TO shop;
ALTER TABLE public."Orders" OWNER TO "Shop";
ALTER SEQUENCE public.orders_id_seq OWNER TO shop_2;
ALTER LARGE OBJECT 4711 OWNER TO keeper;
ALTER SCHEMA public OWNER TO admin;
CREATE TABLE public.orders (id integer, name text collate "de_DE");
CREATE TABLE public.plain (id integer, name text DEFAULT 'ALTER TABLE x OWNER TO nobody');
"""
    quickly = parse(script)
    monkeypatch.setattr(needs_module, "_PLAIN_CHANGE_OF_OWNER", re.compile("(?!)"))
    monkeypatch.setattr(needs_module, "_MAY_NEED", re.compile(""))
    assert quickly == parse(script)
    assert set(quickly.roles) == {"shop", "Shop", "shop_2", "keeper", "admin"}
