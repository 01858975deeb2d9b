-- Every awkward name as the name of a schema's tables, of columns, and of what hangs on a table.
CREATE TABLE public.awkward_names (id serial PRIMARY KEY, name text UNIQUE NOT NULL);
INSERT INTO public.awkward_names (name) VALUES
    ('with space'), (' leading and trailing '), ('single''quote'), ('double"quote'), ('both''"of''"them'),
    ('back\slash'), ('trailing\'), (E'new\nline'), (E'\nleading newline'), (E'carriage\rreturn'), (E'tab\ttab'),
    (E'control\x01char'), ('-dash'), ('--comment; DROP TABLE x'), ('/* open'), ('%percent%s%n'), ('dot.dot'),
    ('..'), ('../../up'), ('/slash'), ('*star?'), ('[a-z]'), ('{brace}'), ('(paren)'), ('$dollar$$'), ('\.'),
    ('\N'), (':colon'), (':''quoted colon'''), ('@at'), ('#hash'), ('&amp;'), ('<lt>'), ('`backtick`'), ('!bang'),
    ('~tilde'), ('^caret'), ('a|b'), ('a,b;c'), ('a=b'), ('select'), ('UPPER'), ('upper'), ('Mixed'), ('1digit'),
    (''' OR 1=1'), (E'\\connect postgres\n\\! false'), ('null'), ('ünïcödé'), ('雪 ☃ 🐘'), (U&'e\0301'), (U&'\00e9'),
    (U&'\202Ereversed'), ('עברית'), (repeat('x', 63)), (repeat('é', 31) || 'x'), (repeat('🐘', 15) || 'xyz');

DO $$
DECLARE
    schemas text[] := ARRAY[
        'plain', 'sch ema "with" ''quotes''', E'sch\nema', '-schema', 'sch%ema', 'schéma ☃', repeat('s', 63)];
    schema_name text;
    name text;
    columns text;
BEGIN
    -- all names in the first schema, and a few in each of the others
    FOREACH schema_name IN ARRAY schemas LOOP
        EXECUTE format('CREATE SCHEMA %I', schema_name);
        FOR name IN
            SELECT n.name FROM public.awkward_names n
            WHERE schema_name = 'plain' OR n.id % 7 = array_position(schemas, schema_name) - 1 ORDER BY n.id
        LOOP
            EXECUTE format('CREATE TABLE %I.%I (id int, %I text)', schema_name, name, name || '');
            EXECUTE format('INSERT INTO %I.%I VALUES (1, %L), (2, NULL)', schema_name, name, name);
        END LOOP;
    END LOOP;

    -- one table with every name as a column, a check, a default, an index, a comment
    SELECT string_agg(format('%I text DEFAULT %L CHECK (%I <> %L)', n.name, n.name, n.name, n.name || 'no'), ', ' ORDER BY n.id)
        INTO columns FROM public.awkward_names n;
    EXECUTE format('CREATE TABLE plain.all_columns (id int PRIMARY KEY, %s)', columns);
    INSERT INTO plain.all_columns (id) SELECT generate_series(1, 5);
    FOR name IN SELECT n.name FROM public.awkward_names n ORDER BY n.id LOOP
        EXECUTE format('COMMENT ON COLUMN plain.all_columns.%I IS %L', name, name);
        EXECUTE format('CREATE INDEX %I ON plain.all_columns (%I)', left(name, 8) || ' idx ' || md5(name), name);
    END LOOP;

    -- and as labels of an enum, with a row for each
    SELECT string_agg(quote_literal(n.name), ', ' ORDER BY n.id) INTO columns FROM public.awkward_names n;
    EXECUTE format('CREATE TYPE plain."enum of ''awkward'' labels" AS ENUM (%s)', columns);
    CREATE TABLE plain.enum_values AS
        SELECT n.id, n.name::plain."enum of 'awkward' labels" AS label FROM public.awkward_names n ORDER BY n.id;
    ALTER TABLE plain.enum_values ADD PRIMARY KEY (label);
END $$;
CREATE SCHEMA "nothing in it";
