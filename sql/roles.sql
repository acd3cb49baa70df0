-- Group roles, least privilege each; people and services are made members of one of them.
--   nightlabel_owner    migrations and partitions
--   nightlabel_writer   workers: no DDL, no delete
--   nightlabel_reader   the public views only
-- Run by `migrate` where its user may, and harmless to repeat. Where it may not, an administrator runs this file once,
-- connected to the results database, and makes the user of `migrate` a member of nightlabel_owner.
DO $$
DECLARE
    wanted text;
    is_new_postgres boolean := current_setting('server_version_num')::integer >= 160000;
    is_superuser boolean := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
    is_database_owner boolean := (
        SELECT pg_has_role(current_user, datdba, 'USAGE') FROM pg_database WHERE datname = current_database()
    );
BEGIN
    FOREACH wanted IN ARRAY ARRAY['nightlabel_owner', 'nightlabel_writer', 'nightlabel_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
                -- Who is no superuser has made a role without being let to act as it.
                IF wanted = 'nightlabel_owner' AND NOT is_superuser THEN
                    EXECUTE 'GRANT nightlabel_owner TO CURRENT_USER'
                        || CASE WHEN is_new_postgres THEN ' WITH SET TRUE, INHERIT TRUE' ELSE '' END;
                END IF;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another migration on the same server made it meanwhile
            END;
        END IF;
    END LOOP;
    IF is_database_owner THEN
        EXECUTE format('GRANT CONNECT, TEMPORARY, CREATE ON DATABASE %I TO nightlabel_owner', current_database());
        EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO nightlabel_writer', current_database());
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO nightlabel_reader', current_database());
        IF to_regnamespace('nightlabel') IS NULL
            AND pg_has_role(current_user, 'nightlabel_owner', CASE WHEN is_new_postgres THEN 'SET' ELSE 'MEMBER' END)
        THEN
            CREATE SCHEMA nightlabel AUTHORIZATION nightlabel_owner;
        END IF;
    END IF;
END
$$;
