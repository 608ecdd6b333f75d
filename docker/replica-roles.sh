#!/bin/sh
# Runs once, when the replica's database is made. `keepstream init --grants` prints the same for other
# replicas. The password is read by psql itself, so that it stands in no process list.
set -eu
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname "$POSTGRES_DB" <<'SQL'
\set keepstream_password `cat "$KEEPSTREAM_PASSWORD_FILE"`

create role keepstream login password :'keepstream_password';
select format('alter database %I owner to keepstream', current_database()) \gexec
grant set on parameter session_replication_role to keepstream;
SQL
