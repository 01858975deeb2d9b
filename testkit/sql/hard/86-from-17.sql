-- Since 17: infinite intervals, identity columns of partitioned tables, login event triggers.
CREATE SCHEMA since_17;
SET search_path = since_17;
CREATE TABLE forever (i interval, many interval[]);
INSERT INTO forever VALUES ('infinity', '{infinity,-infinity,NULL}'), ('-infinity', '{}');
CREATE TABLE numbered (id bigint GENERATED ALWAYS AS IDENTITY (START 77), at int) PARTITION BY LIST (at);
CREATE TABLE numbered_1 PARTITION OF numbered FOR VALUES IN (1);
INSERT INTO numbered (at) SELECT 1 FROM generate_series(1, 10);
CREATE COLLATION builtin_utf8 (provider = builtin, locale = 'C.UTF-8');
CREATE TABLE collated (a text COLLATE builtin_utf8);
INSERT INTO collated VALUES ('ß'), ('S');
CREATE EVENT TRIGGER at_login ON login EXECUTE FUNCTION surroundings.watch();
GRANT MAINTAIN ON forever TO lab_reader;
