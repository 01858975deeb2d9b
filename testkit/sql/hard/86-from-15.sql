-- Since 15: NULLS NOT DISTINCT, SET NULL of some columns, views with the rights of who asks, unlogged sequences,
-- publications of schemas, columns and rows.
SET search_path = constraints;
CREATE TABLE two_keys (a int, b text, c int, d int, UNIQUE (a, b), UNIQUE NULLS NOT DISTINCT (c, d));
INSERT INTO two_keys VALUES (1, 'x', 1, NULL), (2, 'y', NULL, 1);
CREATE TABLE points_to_two (a int, b text, FOREIGN KEY (a, b) REFERENCES two_keys (a, b) MATCH FULL ON DELETE SET NULL (b));
INSERT INTO points_to_two VALUES (1, 'x'), (NULL, NULL);

ALTER VIEW views.checked SET (security_invoker);

SET search_path = sequences;
CREATE UNLOGGED SEQUENCE unlogged;
SELECT setval('unlogged', 99);

SET search_path = surroundings;
SET client_min_messages = error; -- wal_level is too low to publish; creating is all we want
CREATE PUBLICATION "some tables" FOR TABLE constraints.hen (id, egg), views.base WHERE (id > 10 AND "group" <> 'it''s');
CREATE PUBLICATION by_schema FOR TABLES IN SCHEMA volume, "schéma ☃", TABLE views.log;
COMMENT ON PUBLICATION "some tables" IS E'the "comment"''s\n\\.\n$$ ☃';
COMMENT ON SCHEMA public IS 'pg_dump 14 leaves this comment out';
