-- Enough data for members that are streamed on their own, beside hundreds of small ones.
CREATE SCHEMA volume;
SET search_path = volume;

CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY, customer uuid NOT NULL, placed_at timestamptz NOT NULL, status text, total numeric(12, 2), details jsonb);
INSERT INTO orders (customer, placed_at, status, total, details)
    SELECT md5((i % 5000)::text)::uuid, '2024-01-01 00:00+00'::timestamptz + i * interval '37 seconds', (ARRAY['new', 'paid', 'shipped', 'returned'])[i % 4 + 1],
        (i * 7919 % 100000) / 100.0, jsonb_build_object('sku', 'SKU-' || i * 31 % 9973, 'quantity', i % 9 + 1, 'gift', i % 11 = 0, 'note', NULL)
    FROM generate_series(1, 25000) AS i;
ALTER TABLE orders ADD PRIMARY KEY (id);

CREATE TABLE narrow AS SELECT i AS a FROM generate_series(1, 50000) AS i;
CREATE TABLE toasted (id int, body text);
ALTER TABLE toasted ALTER body SET STORAGE EXTERNAL;
WITH base AS (SELECT string_agg(md5(i::text), '' ORDER BY i) AS b FROM generate_series(1, 32768) AS i)
INSERT INTO toasted SELECT n, right(b, n * 1000) || left(b, length(b) - n * 1000) FROM base, generate_series(1, 10) AS n;
CREATE TABLE wide_text (id int, body text);
INSERT INTO wide_text SELECT i, repeat('wide text ' || i || E'\t\n', 100 + i % 50) FROM generate_series(1, 2000) AS i;
CREATE TABLE one_long_row AS SELECT repeat(E'0123456789abcde\n', 250000) AS body;
CREATE TABLE long_bytes AS SELECT decode(repeat('00ff5c0a', 300000), 'hex') AS body;

-- members of exactly 1 MiB, a byte less and a byte more: the text, its newline, and the 5 bytes that end a member
SELECT format('CREATE TABLE %I AS SELECT repeat(''x'', %s) AS a', 'mebibyte ' || d, 1048576 - 6 + d) FROM generate_series(-1, 1) AS d \gexec
SELECT format('CREATE TABLE small_%s AS SELECT i AS id, ''value '' || i AS value FROM generate_series(1, %s) AS i', n, n * 3) FROM generate_series(1, 60) AS n \gexec
