-- Large objects: empty, one byte, all bytes, 3 MB, and many; with owners, rights and comments.
SELECT lo_create(910000), lo_from_bytea(910001, '\x00'), lo_from_bytea(910003, '\x5c2e0a0a0a');
SELECT lo_from_bytea(910002, string_agg(set_byte('\x00', 0, i % 256), '' ORDER BY i)) FROM generate_series(1, 70000) AS i;
SELECT lo_from_bytea(910004, decode(string_agg(md5(i::text), '' ORDER BY i), 'hex')) FROM generate_series(1, 196608) AS i;
SELECT lo_from_bytea(920000 + i, decode(repeat(md5(i::text), i * 8), 'hex')) FROM generate_series(1, 40) AS i;
SELECT lo_put(lo_create(910005), 5000000, '\xff'); -- sparse: zeros are read where nothing was written
COMMENT ON LARGE OBJECT 910001 IS E'a ''byte''\nof zero';
COMMENT ON LARGE OBJECT 920007 IS 'the seventh';
ALTER LARGE OBJECT 910001 OWNER TO lab_owner;
ALTER LARGE OBJECT 920001 OWNER TO "lab ""quoted"" role";
GRANT SELECT ON LARGE OBJECT 910002, 920001, 920002 TO lab_reader;
GRANT SELECT, UPDATE ON LARGE OBJECT 920003 TO "lab ""quoted"" role" WITH GRANT OPTION;
GRANT SELECT ON LARGE OBJECT 920004 TO PUBLIC;
CREATE TABLE public.documents (id int PRIMARY KEY, name text, content oid);
INSERT INTO public.documents SELECT i, 'document ' || i, 920000 + i FROM generate_series(1, 40) AS i;
