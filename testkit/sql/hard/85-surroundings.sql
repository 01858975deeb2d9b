-- Foreign tables that nobody can read, publications, event triggers.
CREATE SCHEMA surroundings;
SET search_path = surroundings;
CREATE FOREIGN DATA WRAPPER "no handler" OPTIONS (debug 'it''s "on"');
CREATE SERVER "dummy 'server'" TYPE 't' VERSION 'v"1"' FOREIGN DATA WRAPPER "no handler" OPTIONS (host 'h\', "port ☃" '1');
CREATE USER MAPPING FOR lab_reader SERVER "dummy 'server'" OPTIONS (password 'p''w"\');
CREATE USER MAPPING FOR PUBLIC SERVER "dummy 'server'";
CREATE FOREIGN TABLE "foreign table" (id int OPTIONS (column_name 'i d') NOT NULL, a text DEFAULT 'x', CHECK (id > 0)) SERVER "dummy 'server'" OPTIONS (path E'a\nb');
CREATE FOREIGN TABLE foreign_child () INHERITS (shapes_of_tables.other_parent) SERVER "dummy 'server'";
GRANT USAGE ON FOREIGN SERVER "dummy 'server'" TO lab_reader;
GRANT USAGE ON FOREIGN DATA WRAPPER "no handler" TO lab_owner WITH GRANT OPTION;

SET client_min_messages = error; -- wal_level is too low to publish; creating is all we want
CREATE PUBLICATION "all ""tables""" FOR ALL TABLES WITH (publish = 'insert, truncate');
CREATE PUBLICATION nothing WITH (publish_via_partition_root);
RESET client_min_messages;

CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE DEBUG ''%'', TG_TAG; END';
CREATE EVENT TRIGGER "watch 'ddl'" ON ddl_command_start WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION watch();
CREATE EVENT TRIGGER watch_drops ON sql_drop EXECUTE FUNCTION watch();
CREATE EVENT TRIGGER never_fires ON table_rewrite EXECUTE FUNCTION watch();
ALTER EVENT TRIGGER never_fires DISABLE;
ALTER EVENT TRIGGER watch_drops ENABLE ALWAYS;
