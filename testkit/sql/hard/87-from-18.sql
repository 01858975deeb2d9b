-- Since 18: virtual columns, keys over time, constraints that are not enforced, named and NOT VALID not-nulls.
CREATE SCHEMA since_18;
SET search_path = since_18;
CREATE TABLE virtual (a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL, b text, thrice int GENERATED ALWAYS AS (a * 3) STORED);
INSERT INTO virtual (a, b) SELECT i, 'b' FROM generate_series(1, 100) AS i;
CREATE TABLE rooms (room int4range, valid daterange, PRIMARY KEY (room, valid WITHOUT OVERLAPS));
CREATE TABLE guests (room int4range, stay daterange, FOREIGN KEY (room, PERIOD stay) REFERENCES rooms (room, PERIOD valid));
INSERT INTO rooms VALUES ('[1,2)', '[2024-01-01,2024-06-01)'), ('[1,2)', '[2024-06-01,2025-01-01)');
INSERT INTO guests VALUES ('[1,2)', '[2024-05-01,2024-07-01)');
CREATE TABLE not_enforced (a int, CONSTRAINT big CHECK (a > 100) NOT ENFORCED, hen int CONSTRAINT any_hen REFERENCES constraints.hen NOT ENFORCED);
INSERT INTO not_enforced VALUES (1, -1);
CREATE TABLE with_nulls (a int, b int CONSTRAINT "b's not null" NOT NULL NO INHERIT);
INSERT INTO with_nulls VALUES (NULL, 1);
ALTER TABLE with_nulls ADD CONSTRAINT a_not_null NOT NULL a NOT VALID;
SET client_min_messages = error;
CREATE PUBLICATION generated_too FOR TABLE virtual WITH (publish_generated_columns = stored);
