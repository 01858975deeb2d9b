-- Views, some in circles; materialised views on each other; rules and triggers in every state.
CREATE SCHEMA views;
SET search_path = views;

CREATE TABLE base (id int PRIMARY KEY, "group" text, amount numeric, note text);
INSERT INTO base SELECT i, 'g' || i % 7, i * 1.5, 'n' FROM generate_series(1, 1000) AS i;
CREATE VIEW "plain ""view""" AS SELECT *, amount * 2 AS "double amount" FROM base;
CREATE VIEW grouped_by_key AS SELECT b.*, count(*) OVER () FROM base b GROUP BY b.id; -- depends on the primary key
CREATE VIEW checked WITH (security_barrier) AS SELECT * FROM base WHERE id < 500 WITH LOCAL CHECK OPTION;
CREATE RECURSIVE VIEW steps (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM steps WHERE n < 10;
CREATE VIEW in_a_circle AS SELECT 1 AS a, ''::text AS b;
CREATE FUNCTION of_circle() RETURNS SETOF in_a_circle LANGUAGE sql AS 'SELECT 1, ''x''::text';
CREATE OR REPLACE VIEW in_a_circle AS SELECT a, b FROM of_circle();
CREATE VIEW with_defaults AS SELECT id, note FROM base;
ALTER VIEW with_defaults ALTER COLUMN note SET DEFAULT 'from the view';
CREATE TABLE becomes_view (a int);
CREATE VIEW no_columns AS SELECT FROM base;

CREATE MATERIALIZED VIEW totals AS SELECT "group", sum(amount) AS total FROM base GROUP BY "group" ORDER BY 1;
CREATE UNIQUE INDEX ON totals ("group");
CREATE MATERIALIZED VIEW "a totals of 'totals'" AS SELECT count(*) AS groups, max(total) FROM totals; -- its name sorts first
CREATE MATERIALIZED VIEW by_key AS SELECT b.*, 1 AS one FROM base b GROUP BY b.id ORDER BY b.id;
CREATE MATERIALIZED VIEW never_filled AS SELECT * FROM base WITH NO DATA;
CREATE MATERIALIZED VIEW from_function AS SELECT * FROM code.returns_table(20);

CREATE TABLE log (at int GENERATED ALWAYS AS IDENTITY, what text);
CREATE RULE "log 'updates'" AS ON UPDATE TO base WHERE old.amount <> new.amount DO ALSO INSERT INTO log (what) VALUES ('update ' || old.id);
CREATE RULE into_base AS ON INSERT TO "plain ""view""" DO INSTEAD INSERT INTO base VALUES (new.id, new."group", new.amount, new.note) RETURNING base.*, base.amount * 2;
CREATE RULE never AS ON DELETE TO base DO INSTEAD NOTHING;
ALTER TABLE base DISABLE RULE never;
CREATE RULE always AS ON DELETE TO log DO INSTEAD NOTHING;
ALTER TABLE log ENABLE ALWAYS RULE always;

CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_LEVEL = 'ROW' THEN new.note := coalesce(TG_ARGV[0], '') || TG_NAME; RETURN new; END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'data must be loaded before triggers fire'; END $$;
CREATE TABLE triggered (id int PRIMARY KEY, a text, note text);
INSERT INTO triggered SELECT i, 'a' FROM generate_series(1, 100) AS i;
CREATE TRIGGER "before 'insert'" BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION stamp('it''s', E'tab\t', 'ünï');
CREATE TRIGGER some_columns BEFORE UPDATE OF a, note ON triggered FOR EACH ROW WHEN (old.a IS DISTINCT FROM new.a) EXECUTE FUNCTION stamp();
CREATE TRIGGER refuses AFTER INSERT ON triggered FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER transition AFTER UPDATE ON triggered REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION stamp();
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON triggered FROM constraints.hen DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER is_disabled BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER on_replica BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER is_always BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION stamp();
ALTER TABLE triggered DISABLE TRIGGER is_disabled, ENABLE REPLICA TRIGGER on_replica, ENABLE ALWAYS TRIGGER is_always;
CREATE TRIGGER instead INSTEAD OF INSERT ON with_defaults FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER on_all_partitions BEFORE INSERT ON shapes_of_tables.by_range FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE shapes_of_tables.by_range_2023 DISABLE TRIGGER on_all_partitions;
