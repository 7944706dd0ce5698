#!/bin/sh
# Create the roles and the database of IBEX. The image of PostgreSQL runs this once, when it makes its data.
set -eu
secrets="${SECRETS:-/run/secrets}"
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
    --set owner="$(cat "$secrets/owner_password")" \
    --set app="$(cat "$secrets/app_password")" \
    --set auth="$(cat "$secrets/auth_password")" <<'SQL'
CREATE ROLE ibex_owner LOGIN CREATEROLE PASSWORD :'owner';
CREATE ROLE ibex_app LOGIN PASSWORD :'app';
CREATE ROLE ibex_auth LOGIN PASSWORD :'auth';
CREATE DATABASE ibex OWNER ibex_owner;
SQL
