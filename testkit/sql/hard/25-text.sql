-- Text that looks like COPY's own syntax, every code point, and the difference between nothing and NULL.
CREATE SCHEMA texts;
CREATE TABLE texts.awkward (id serial, a text, b text);
INSERT INTO texts.awkward (a, b) VALUES
    ('', NULL), (NULL, ''), ('\N', NULL), ('\.', '\.'), (E'\n\\.\n', E'\\.\n\n\n'), ('\\.', '\\N'), (E'\t', E'\r'), (E'\r\n', E'\n\r'),
    (E'\b\f\n\r\t\v\\', E'\x01\x02\x1b\x7f'), ('\', '\\'), ('\n', E'\n'), ('\t', E'\t'), ('\x41', '\101'), (' ', '  '),
    ('''', ''''''), ('"', '""'), ('$$', '$a$'), ('--', '/*'), (';', E';\n'), ('NULL', 'null'), ('\copy', '\connect postgres'),
    (E'\n', E'\n\n\n\n'), (U&'\FEFF bom', U&'\200B\2028\2029'), ('e' || U&'\0301', U&'\00e9'), ('%s%n%d', '%%'), ('{{ ds }}', '{% raw %}');
CREATE TABLE texts.every_code_point AS
    SELECT plane, string_agg(chr(plane * 4096 + offset_in), '' ORDER BY offset_in) AS characters
    FROM generate_series(0, 271) AS plane, generate_series(0, 4095, 1) AS offset_in
    WHERE plane * 4096 + offset_in NOT BETWEEN 55296 AND 57343 AND plane * 4096 + offset_in > 0
      AND (plane < 20 OR offset_in % 64 = 0)
    GROUP BY plane ORDER BY plane;
CREATE TABLE texts.only_nulls AS SELECT NULL::text AS a, NULL::int AS b FROM generate_series(1, 1000);
CREATE TABLE texts.only_empty AS SELECT ''::text AS a FROM generate_series(1, 1000);
CREATE TABLE texts.only_newlines AS SELECT repeat(E'\n', i) AS a FROM generate_series(0, 50) AS i;
CREATE TABLE texts.one_row AS SELECT 1 AS a;
CREATE COLLATION texts."C, renamed" FROM "C";
CREATE COLLATION texts.utf8 (provider = libc, locale = 'C.UTF-8');
CREATE TABLE texts.collated (a text COLLATE texts."C, renamed", b varchar(9) COLLATE "POSIX", c text COLLATE texts.utf8);
INSERT INTO texts.collated VALUES ('ä', 'Z', 'a'), ('a', 'a', 'Ä');
CREATE INDEX ON texts.collated (a COLLATE texts.utf8, b DESC NULLS FIRST);
