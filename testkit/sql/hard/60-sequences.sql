-- Sequences in the middle of their way.
CREATE SCHEMA sequences;
SET search_path = sequences;
CREATE SEQUENCE fresh;
CREATE SEQUENCE "used 'once'";
SELECT nextval('"used ''once''"');
CREATE SEQUENCE midway START 17 INCREMENT 13 MINVALUE 4 MAXVALUE 100000 CACHE 7 CYCLE;
SELECT count(nextval('midway')) FROM generate_series(1, 100);
CREATE SEQUENCE descending AS smallint INCREMENT -3 MINVALUE -32768 MAXVALUE -1;
SELECT count(nextval('descending')) FROM generate_series(1, 50);
CREATE SEQUENCE at_the_end START 9223372036854775806;
SELECT nextval('at_the_end'), nextval('at_the_end');
CREATE SEQUENCE at_the_start MINVALUE -9223372036854775808 START -9223372036854775808;
CREATE SEQUENCE not_called;
SELECT setval('not_called', 4711, false);
CREATE TABLE owner (id int DEFAULT nextval('midway'), small smallserial, big bigserial);
CREATE SEQUENCE owned OWNED BY owner.id;
SELECT setval('owned', 123456789012);
INSERT INTO owner SELECT FROM generate_series(1, 10);
