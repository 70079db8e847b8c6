-- Roles for guestgate, with no more rights than each needs. Run it once in guestgate's own, empty database, as
-- whoever made that (the provider's administrator will do); running it again changes nothing:
--
--   createdb guestgate --encoding UTF8 --template template0
--   psql --single-transaction --set ON_ERROR_STOP=1 --file postgres-roles.sql guestgate
--
-- guestgate_owner owns the tables: init, db upgrade, db copy.
-- guestgate       reads and writes rows: serve and every other command. It can neither make nor change a table;
--                 months of the record are made and dropped through two functions that do only that.
--
-- Give both a password, \password guestgate in psql, or another way to log in.

SELECT 'CREATE ROLE guestgate_owner LOGIN' WHERE to_regrole('guestgate_owner') IS NULL \gexec
SELECT 'CREATE ROLE guestgate LOGIN' WHERE to_regrole('guestgate') IS NULL \gexec

-- Nobody else comes in; and without TEMPORARY nobody can put a table of their own before ours.
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO guestgate_owner, guestgate', current_database()) \gexec
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO guestgate_owner;
GRANT USAGE ON SCHEMA public TO guestgate;

-- What guestgate_owner makes from now on. Administrators that are no superusers have to be members of a role
-- whose defaults they change.
GRANT guestgate_owner TO CURRENT_USER;
ALTER DEFAULT PRIVILEGES FOR ROLE guestgate_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO guestgate;
ALTER DEFAULT PRIVILEGES FOR ROLE guestgate_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE guestgate_owner IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO guestgate;

-- What is there already, for instance from a dump that was restored as guestgate_owner without its rights.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guestgate;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO guestgate;
