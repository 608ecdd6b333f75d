#!/bin/sh
# Runs once, when the source's database is made. `keepstream init --grants` prints the same for other
# sources. Passwords are read by psql itself, so that they stand in no process list.
set -eu
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname "$POSTGRES_DB" <<'SQL'
\set keepstream_password `cat "$KEEPSTREAM_PASSWORD_FILE"`
\set crm_password `cat "$CRM_PASSWORD_FILE"`

-- Owns the CRM's tables.
create role crm login password :'crm_password';
select format('alter database %I owner to crm', current_database()) \gexec

create role keepstream login replication password :'keepstream_password';
grant pg_read_all_data, pg_read_all_stats to keepstream;

-- Lets Keepstream make its publication and add new tables to it.
grant crm to keepstream;
select format('grant create on database %I to keepstream', current_database()) \gexec
SQL
