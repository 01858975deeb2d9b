-- :tables small tables in ten schemas, each with a key, an index, a sequence and a few rows.
SELECT format('CREATE SCHEMA part_%s', n) FROM generate_series(0, 9) AS n \gexec
-- Fifty tables a statement: one at a time would be as many round trips and commits.
SELECT string_agg(format(
        'CREATE TABLE part_%1$s.t_%2$s (id serial PRIMARY KEY, name text NOT NULL, amount numeric DEFAULT 0);'
        'INSERT INTO part_%1$s.t_%2$s (name, amount) SELECT ''row '' || i, i * %2$s FROM generate_series(1, %3$s) AS i;'
        'CREATE INDEX ON part_%1$s.t_%2$s (name);', n % 10, n, n % 20), ' ' ORDER BY n)
    FROM generate_series(1, :tables) AS n GROUP BY n / 50 ORDER BY n / 50 \gexec
