-- Functions, procedures, operators, aggregates, casts, text search: everything that has a body or hangs on one.
CREATE SCHEMA code;
SET search_path = code;

CREATE FUNCTION body_with_quotes(text DEFAULT 'it''s', VARIADIC rest int[] DEFAULT '{1,2}') RETURNS text LANGUAGE plpgsql
    STABLE STRICT PARALLEL SAFE SECURITY DEFINER COST 12.5 SET search_path = pg_catalog, code SET "work_mem" = '5MB' AS
$outer$
BEGIN
    /* $$ and $_$ and 'quotes' and \. and the line that ends a COPY:
\.
    */
    EXECUTE $inner$SELECT '\n' || $1$inner$ INTO $1 USING $1;
    RETURN $1 || E'\t\\' || $_$ $$ $_$;
END
$outer$;
CREATE FUNCTION atomic(a int, b int DEFAULT 2, OUT sum int, OUT text text) LANGUAGE sql IMMUTABLE
    BEGIN ATOMIC SELECT a + b, format('%s + %s', a, b); END;
CREATE FUNCTION returns_value(a int) RETURNS int LANGUAGE sql RETURN a + 1;
CREATE FUNCTION returns_table(n int) RETURNS TABLE (i int, "the ""square""" int) LANGUAGE sql ROWS 42
    BEGIN ATOMIC SELECT g, g * g FROM generate_series(1, n) AS g; END;
CREATE FUNCTION polymorphic(anycompatible, anycompatiblearray) RETURNS anycompatible LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION "overloaded name"() RETURNS int LANGUAGE sql AS 'SELECT 0';
CREATE FUNCTION "overloaded name"(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION "overloaded name"(types."mood ☹", types.positive[]) RETURNS int LANGUAGE sql AS 'SELECT 2';
CREATE PROCEDURE count_hens(INOUT n bigint DEFAULT 0) LANGUAGE sql
    BEGIN ATOMIC SELECT n + count(*) FROM constraints.hen; END;
CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
CREATE FUNCTION no_such_table() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT x FROM no_such_table); END';
CREATE FUNCTION own_window() RETURNS bigint LANGUAGE internal WINDOW IMMUTABLE AS 'window_row_number';

CREATE FUNCTION concat_step(text, text, text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT COALESCE($1 || $3, '''') || $2';
CREATE AGGREGATE "joined ""up"""(text, text) (SFUNC = concat_step, STYPE = text);
CREATE AGGREGATE own_sum(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0', COMBINEFUNC = int4pl, PARALLEL = SAFE, MSFUNC = int4pl, MINVFUNC = int4mi, MSTYPE = int, MINITCOND = '0');
CREATE AGGREGATE own_percentile(float8 ORDER BY anyelement) (SFUNC = ordered_set_transition, STYPE = internal, FINALFUNC = percentile_disc_final, FINALFUNC_EXTRA);

CREATE FUNCTION near(int, int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT abs($1 - $2) < 3';
CREATE OPERATOR ~~~ (LEFTARG = int, RIGHTARG = int, FUNCTION = near, COMMUTATOR = ~~~, RESTRICT = eqsel, JOIN = eqjoinsel);
CREATE FUNCTION mood_to_int(types."mood ☹") RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT length($1::text)';
CREATE CAST (types."mood ☹" AS int) WITH FUNCTION mood_to_int(types."mood ☹") AS ASSIGNMENT;
CREATE CAST (text AS types."mood ☹") WITH INOUT AS IMPLICIT;
CREATE CONVERSION "own conversion" FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;

CREATE TEXT SEARCH DICTIONARY "stem 'en'" (TEMPLATE = snowball, language = english, stopwords = english);
CREATE TEXT SEARCH TEMPLATE own_template (INIT = dsimple_init, LEXIZE = dsimple_lexize);
CREATE TEXT SEARCH DICTIONARY own_dictionary (TEMPLATE = own_template, accept = false);
CREATE TEXT SEARCH PARSER own_parser (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, HEADLINE = prsd_headline, LEXTYPES = prsd_lextype);
CREATE TEXT SEARCH CONFIGURATION own_search (COPY = pg_catalog.english);
ALTER TEXT SEARCH CONFIGURATION own_search ALTER MAPPING FOR asciiword, word WITH own_dictionary, "stem 'en'";
CREATE TEXT SEARCH CONFIGURATION empty_search (PARSER = own_parser);
CREATE TABLE searched (id int, body text, words tsvector GENERATED ALWAYS AS (to_tsvector('code.own_search', body)) STORED);
INSERT INTO searched SELECT i, 'elephants are walking ' || i FROM generate_series(1, 100) AS i;
CREATE INDEX ON searched USING gin (words);
CREATE TABLE uses_code (a int DEFAULT code.returns_value(41), CHECK (a OPERATOR(code.~~~) 42), b types."mood ☹" DEFAULT 'sad');
INSERT INTO uses_code DEFAULT VALUES;
CREATE INDEX ON uses_code ((code.mood_to_int(b)));
