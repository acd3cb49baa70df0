-- Group roles, least privilege each; people and services are made members of one of them.
-- Run by `migrate` when its user may create roles; an administrator can run it beforehand instead.
--   nightlabel_owner    migrations and partitions
--   nightlabel_writer   workers: no DDL, no delete
--   nightlabel_reader   the public views only
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['nightlabel_owner', 'nightlabel_writer', 'nightlabel_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another migration on the same server made it meanwhile
            END;
        END IF;
    END LOOP;
END
$$;
