-- A row of the worst values of every type: what COPY must escape, what depends on settings, what has no number.
CREATE SCHEMA types;
SET search_path = types, public;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';

CREATE TABLE numbers (id int, i2 smallint, i4 int, i8 bigint, f4 real, f8 double precision, n numeric, n2 numeric(20, 5), m money);
INSERT INTO numbers VALUES
    (1, -32768, -2147483648, -9223372036854775808, '-Infinity', '-Infinity', '-Infinity', -123456789012345.67891, -92233720368547758.08),
    (2, 32767, 2147483647, 9223372036854775807, 'Infinity', 'Infinity', 'Infinity', 999999999999999.99999, 92233720368547758.07),
    (3, 0, 0, 0, 'NaN', 'NaN', 'NaN', 'NaN', 0),
    (4, -1, -1, -1, '-0', '-0', -0.0, -0.0, -0.01),
    (5, 1, 1, 1, 1e-45, 4.9406564584124654e-324, 1e-1000, 0.00001, 0.01),
    (6, 2, 2, 2, 3.4028235e38, 1.7976931348623157e308, 1e1000 + 0.1, 1, 1),
    (7, 3, 3, 3, 0.1, 0.1, 0.1000, 0.1, 0.1),
    (8, 4, 4, 4, 16777217, 9007199254740993, ('1' || repeat('0', 131071))::numeric, 1, 1),
    (9, 5, 5, 5, 1.1754942e-38, 2.2250738585072011e-308, ('0.' || repeat('0', 16382) || '1')::numeric, 1, 1),
    (10, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

CREATE TABLE times (id int, d date, t time, tz timetz, ts timestamp, tsz timestamptz, ts0 timestamptz(0), i interval, ih interval hour to minute);
INSERT INTO times VALUES
    (1, '-infinity', '00:00', '00:00+15:59', '-infinity', '-infinity', '-infinity', '-178000000 years', '1:00'),
    (2, 'infinity', '24:00', '24:00-15:59', 'infinity', 'infinity', 'infinity', '178000000 years', '-1:00'),
    (3, '4713-01-01 BC', '23:59:59.999999', '23:59:59.999999+05:30:15', '4713-01-01 00:00:00 BC', '4713-01-02 00:00:00+00 BC', '0001-01-01 BC', '-1 mon +1 day -00:00:00.000001', NULL),
    (4, '5874897-12-31', '12:00', '12:00-03:30', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', '2024-02-29 12:00+05:45', '1 year 2 mons -3 days 04:05:06.789', NULL),
    (5, '0001-12-31 BC', '00:00:00.000001', '00:00:00.000001-00:00', '0001-12-31 23:59:59.999999 BC', '1883-11-18 12:03:57+00', '1970-01-01 00:00+00', '0', NULL),
    (6, '2000-01-01', NULL, NULL, '2024-03-31 02:30', '2024-03-31 01:30+00', '2038-01-19 03:14:08+00', '-0:00:00.1', NULL);

CREATE TABLE bytes (id int, b bytea, bits bit(9), varbits bit varying, c "char", padded char(7), capped varchar(5), n name, u uuid);
INSERT INTO bytes
    SELECT 1, string_agg(set_byte('\x00', 0, i), '' ORDER BY i), B'101010101', B'', '\', 'a  ', 'b  ', 'n', gen_random_uuid()
    FROM generate_series(0, 255) AS i;
INSERT INTO bytes VALUES
    (2, '', B'000000000', B'1', '', '', '', '', '00000000-0000-0000-0000-000000000000'),
    (3, '\x5c2e0a', B'111111111', B'0000000000000000000000000000000000000000000000000000000000000000000000001', E'\t', E'\t\n\r\\', E'\\.', '\N', 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
    (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO bytes (id, b) SELECT 1000 + i, set_byte('\x00', 0, i) FROM generate_series(0, 255) AS i;

CREATE TABLE shapes (p point, l line, s lseg, b box, path path, poly polygon, c circle);
INSERT INTO shapes VALUES
    ('(0.1,-0)', '{1,-2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '((0,0),(1,1),(2,0))', '((0,0),(1,1),(2,0))', '<(0,0),0>'),
    ('(1e-300,1e300)', '{0,1,0}', '[(Infinity,0),(1,NaN)]', '(3,4),(1,2)', '[(0,0),(1,1)]', '((1,1))', '<(1,2),3.5>');

CREATE TABLE networks (i inet, c cidr, m macaddr, m8 macaddr8);
INSERT INTO networks VALUES
    ('::ffff:1.2.3.4/128', '2001:db8::/32', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05'), ('1.2.3.4/24', '10/8', NULL, NULL);

CREATE TABLE searches (v tsvector, q tsquery, path jsonpath);
INSERT INTO searches VALUES
    ($$'a''b':1A,2B 'c\\d':3 ' ':4$$, $$'a''b' & !('c\\d' <2> ' ':*A)$$, '$."a b"[*] ? (@ like_regex "^\\d+$" flag "i")'), ('', 'a', NULL);

CREATE TABLE json_values (id int, j json, b jsonb);
INSERT INTO json_values VALUES
    (1, E'  {"b" :1,\n\t"a":  [ ] , "b":2 }  ', '{"b": 1, "a": [], "b": 2}'), (2, '"\u0041\ud83d\ude00\\n\"\t"', '"\u0041\ud83d\ude00\\n\"\t"'),
    (3, 'null', 'null'), (4, NULL, NULL), (5, '1e400', '1e400'), (6, '-0.0', '-0.0'), (7, '""', '""'), (8, '"\u0000"', '[[[]]]'),
    (9, '1.000000000000000000000000000001', '1.000000000000000000000000000001'), (10, '{"": {"": ""}}', '{"": {"": ""}}');

CREATE TABLE system_values (id int, o oid, x xid8, l pg_lsn, t tid, s pg_snapshot, r regclass, rt regtype, rp regprocedure, ov oidvector, iv int2vector);
INSERT INTO system_values VALUES
    (1, 4294967295, '18446744073709551615', 'FFFFFFFF/FFFFFFFF', '(4294967295,65535)', '10:20:10,14,15',
     'plain."select"', 'plain."enum of ''awkward'' labels"', 'pg_catalog.lower(text)', '1 2 3', '-1 2');

-- made of other types
CREATE TYPE "mood ☹" AS ENUM ('sad', 'it''s ok', 'with "quotes"', '', ' ', 'comma,', '{brace}', '\');
ALTER TYPE "mood ☹" ADD VALUE 'in between' BEFORE 'it''s ok';
CREATE DOMAIN positive AS int DEFAULT 7 CONSTRAINT "must be > 0" CHECK (VALUE > 0) NOT NULL;
CREATE DOMAIN small_positive AS positive CHECK (VALUE < 100);
CREATE DOMAIN some_texts AS text[] CHECK (cardinality(VALUE) < 10);
CREATE TYPE address AS (street text COLLATE "C", "house ""no""" int, moods "mood ☹"[], at tstzrange);
CREATE DOMAIN full_address AS address CHECK (VALUE IS NULL OR (VALUE).street <> '');
CREATE TYPE float_range AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TYPE "text range" AS RANGE (subtype = text, collation = "C", multirange_type_name = "many text ranges");
CREATE TYPE shell_only;
CREATE TABLE composed (
    id int, mood "mood ☹", small small_positive, texts some_texts, home address, homes address[], checked full_address,
    row_of_table types.numbers, ranges int4range, floats float_range, text_range "text range", many "many text ranges",
    multi datemultirange, times tstzrange);
INSERT INTO composed VALUES
    (1, 'sad', 1, '{a,NULL,"NULL","",",","\"","\\"}', ROW('a "b" (c), \', 1, '{sad,"it''s ok",NULL,""}', '[2024-01-01 00:00+00,)'),
     ARRAY[ROW('', NULL, '{}', 'empty')::address, NULL], ROW('x', 2, NULL, NULL), (SELECT whole FROM types.numbers AS whole WHERE whole.id = 4),
     'empty', '[-0,Infinity)', '["a,b","c""d"]', '{["a","b"),("c",)}', '{[2024-01-01,2024-02-01),[infinity,infinity]}', '(,)'),
    (2, '\', 99, '[5:6]={x,y}', ROW(NULL, NULL, NULL, NULL), '{}', NULL, NULL, '(,5)', 'empty', '(,)', '{}', '{}', NULL),
    (3, 'in between', 7, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

CREATE TABLE arrays (id int, i int[], t text[], b bytea[], f float8[], j jsonb[], d date[], bounded int[3][3]);
INSERT INTO arrays VALUES
    (1, '{}', '{}', '{}', '{}', '{}', '{}', '{}'),
    (2, '[-2:0][3:4]={{1,2},{3,NULL},{NULL,6}}', '[0:1]={"null",NULL}', ARRAY['\x00'::bytea, '\x5c', NULL], '{NaN,-Infinity,-0,1e-320}',
     ARRAY['{"a": "b\\\"c"}'::jsonb, 'null', NULL], '{infinity,0044-03-15 BC,NULL}', '{{1,2,3},{4,5,6},{7,8,9}}'),
    (3, '{{{{{{1}}}}}}', ARRAY[E'tab\t', E'nl\n', E'cr\r', '\.', '\N', '{}', '"', ' sp ', '', ','], NULL, NULL, NULL, NULL, NULL);

-- a base type of its own, stored by the built-in functions of text, with an operator class and an index that uses it
CREATE TYPE token;
CREATE FUNCTION token_in(cstring) RETURNS token LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION token_out(token) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE token (INPUT = token_in, OUTPUT = token_out, LIKE = text, CATEGORY = 'S');
CREATE CAST (token AS text) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE CAST (text AS token) WITHOUT FUNCTION;
CREATE FUNCTION token_cmp(token, token) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.bttextcmp($1::text, $2::text)';
CREATE FUNCTION token_lt(token, token) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1::text COLLATE "C" < $2::text COLLATE "C"';
CREATE FUNCTION token_eq(token, token) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1::text = $2::text';
CREATE FUNCTION token_gt(token, token) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1::text COLLATE "C" > $2::text COLLATE "C"';
CREATE OPERATOR <<< (LEFTARG = token, RIGHTARG = token, FUNCTION = token_lt, COMMUTATOR = >>>);
CREATE OPERATOR === (LEFTARG = token, RIGHTARG = token, FUNCTION = token_eq, COMMUTATOR = ===, MERGES);
CREATE OPERATOR >>> (LEFTARG = token, RIGHTARG = token, FUNCTION = token_gt, COMMUTATOR = <<<);
CREATE OPERATOR FAMILY token_family USING btree;
CREATE OPERATOR CLASS token_class FOR TYPE token USING btree FAMILY token_family AS
    OPERATOR 1 <<<, OPERATOR 3 ===, OPERATOR 5 >>>, FUNCTION 1 token_cmp(token, token);
CREATE TABLE tokens (t token);
INSERT INTO tokens SELECT ('token ' || i)::text::token FROM generate_series(1, 50) AS i;
CREATE INDEX tokens_index ON tokens USING btree (t token_class);
