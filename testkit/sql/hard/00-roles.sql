-- Roles are shared by all databases of a server: made once, before anything that they own or may use.
DO $$
DECLARE role text;
BEGIN
    FOREACH role IN ARRAY ARRAY[
        'lab_owner', 'lab_reader', 'lab "quoted" role', 'lab''s — élève', '-lab dash', 'lab' || repeat('_', 60)]
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I', role);
        END IF;
    END LOOP;
END $$;
