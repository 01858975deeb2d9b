-- Variables: table, rows.
CREATE TABLE :"table" AS
    SELECT id, repeat((SELECT string_agg(md5(id || '/' || j), '') FROM generate_series(1, 32) AS j), 8) AS body
    FROM generate_series(1, :rows) AS id;
