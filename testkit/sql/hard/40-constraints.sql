-- Foreign keys in circles, constraints that the data breaks, exclusion, and indexes of all kinds.
CREATE SCHEMA constraints;
SET search_path = constraints;

CREATE TABLE hen (id int PRIMARY KEY, egg int, boss int REFERENCES hen DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE egg (id int PRIMARY KEY, hen int REFERENCES hen ON DELETE CASCADE, nest int);
CREATE TABLE nest (id int PRIMARY KEY, egg int REFERENCES egg DEFERRABLE, hen int REFERENCES hen);
ALTER TABLE hen ADD CONSTRAINT "hen ← egg" FOREIGN KEY (egg) REFERENCES egg ON UPDATE SET NULL DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE egg ADD FOREIGN KEY (nest) REFERENCES nest ON DELETE SET DEFAULT DEFERRABLE INITIALLY IMMEDIATE;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO hen SELECT i, i, 101 - i FROM generate_series(1, 100) AS i;
INSERT INTO egg SELECT i, i, i FROM generate_series(1, 100) AS i;
INSERT INTO nest SELECT i, i, i FROM generate_series(1, 100) AS i;
COMMIT;

CREATE TABLE keyed_partitions (id int, at int, PRIMARY KEY (id, at)) PARTITION BY LIST (at);
CREATE TABLE keyed_partitions_1 (at int NOT NULL, id int NOT NULL);
ALTER TABLE keyed_partitions ATTACH PARTITION keyed_partitions_1 FOR VALUES IN (1);
CREATE TABLE keyed_partitions_2 PARTITION OF keyed_partitions FOR VALUES IN (2);
INSERT INTO keyed_partitions SELECT i, i % 2 + 1 FROM generate_series(1, 100) AS i;
CREATE TABLE points_to_partitions (id int, at int, FOREIGN KEY (id, at) REFERENCES keyed_partitions) PARTITION BY LIST (at);
CREATE TABLE points_to_partitions_1 PARTITION OF points_to_partitions FOR VALUES IN (1, 2);
INSERT INTO points_to_partitions SELECT * FROM keyed_partitions;

-- rows that break a constraint which was added NOT VALID
CREATE TABLE broken (a int, hen int);
INSERT INTO broken VALUES (-1, 12345), (1, 1);
ALTER TABLE broken ADD CONSTRAINT positive CHECK (a > 0) NOT VALID, ADD CONSTRAINT no_such_hen FOREIGN KEY (hen) REFERENCES hen NOT VALID;

CREATE TABLE bookings (
    room int4range, during tstzrange, area circle,
    CONSTRAINT "no overlap" EXCLUDE USING gist (room WITH =, during WITH &&) WHERE (NOT isempty(during)) DEFERRABLE INITIALLY DEFERRED,
    EXCLUDE USING gist (area WITH &&));
INSERT INTO bookings SELECT int4range(i, i + 1), tstzrange(to_timestamp(i), to_timestamp(i + 10)), circle(point(i * 10, 0), 1) FROM generate_series(1, 100) AS i;

CREATE TABLE indexed (id int, a text, b jsonb, c tsvector, d int[], e point, f text NOT NULL DEFAULT 'f');
INSERT INTO indexed SELECT i, 'a' || i, jsonb_build_object('k', i), to_tsvector('english', 'word' || i), ARRAY[i], point(i, i) FROM generate_series(1, 500) AS i;
CREATE UNIQUE INDEX "unique ""partial"" index" ON indexed (lower(a) text_pattern_ops DESC NULLS LAST, (b ->> 'k')) INCLUDE (id) WITH (fillfactor = 50) WHERE id > 10;
CREATE INDEX ON indexed USING gin (b jsonb_path_ops) WITH (fastupdate = off);
CREATE INDEX ON indexed USING gist (c tsvector_ops (siglen = 100));
CREATE INDEX ON indexed USING gin (d);
CREATE INDEX ON indexed USING spgist (e);
CREATE INDEX ON indexed USING brin (id int4_minmax_multi_ops (values_per_range = 16)) WITH (pages_per_range = 4);
CREATE INDEX ON indexed USING hash (a);
CREATE UNIQUE INDEX indexed_f ON indexed (f, id);
CREATE INDEX indexed_expression ON indexed ((id % 7));
ALTER INDEX indexed_expression ALTER COLUMN 1 SET STATISTICS 1000;
ALTER TABLE indexed ALTER id SET NOT NULL, ADD CONSTRAINT as_key PRIMARY KEY USING INDEX indexed_f;
ALTER TABLE indexed REPLICA IDENTITY USING INDEX as_key, CLUSTER ON as_key;
CREATE STATISTICS "stats ""quoted""" (ndistinct, dependencies, mcv) ON id, a, f FROM indexed;
CREATE STATISTICS on_expressions ON (lower(a)), (id % 10) FROM indexed;
ALTER STATISTICS on_expressions SET STATISTICS 300;
