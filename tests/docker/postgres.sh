#!/bin/sh
# Does for Debian's PostgreSQL what the entry point of the image postgres:15 does, as far as deployments/compose.yaml
# relies on it: where no registry answers, tests/docker/run.sh makes an image of that name with it.
set -eu
bin=/usr/lib/postgresql/15/bin
data=/var/lib/postgresql/data
mkdir -p "$data" && chown -R postgres "$data" && chmod 700 "$data"
run() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
if [ ! -s "$data/PG_VERSION" ]; then
    printf '%s' "$POSTGRES_PASSWORD" >/tmp/password && chown postgres /tmp/password
    run "$bin/initdb" -D "$data" -U "$POSTGRES_USER" -A scram-sha-256 --pwfile /tmp/password >/dev/null
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
    run "$bin/pg_ctl" -D "$data" -w -o "-c listen_addresses= -k /tmp" start >/dev/null
    PGPASSWORD=$POSTGRES_PASSWORD run psql -h /tmp -U "$POSTGRES_USER" -d postgres -c "create database $POSTGRES_DB"
    run "$bin/pg_ctl" -D "$data" -w stop >/dev/null
fi
exec setpriv --reuid postgres --regid postgres --clear-groups "$bin/postgres" -D "$data" -c 'listen_addresses=*' -k /tmp
