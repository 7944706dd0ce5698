#!/bin/sh
# Make the secrets of compose.yaml: a random one for each server, the URLs that contain them, and the provider's key from
# OPENAI_API_KEY. Files that exist stay as they are. Usage: make-secrets.sh [directory]
#
# Only the owner can enter the directory. The files in it are readable, because a container has another user id.
set -eu
umask 022
directory="${1:-$(dirname "$0")/secrets}"
mkdir -p "$directory"
chmod 0700 "$directory"
cd "$directory"

if [ ! -s openai_api_key ]; then
    : "${OPENAI_API_KEY:?set it to the key for the provider}"
    printf '%s' "$OPENAI_API_KEY" >openai_api_key
fi

random() { # letters and digits, which need no quoting in a URL or a file of settings
    head -c 64 /dev/urandom | base64 | tr -dc 'A-Za-z0-9' | head -c 40
}

once() { # once NAME: write standard input to a file that does not exist yet
    if [ -s "$1" ]; then cat >/dev/null; else cat >"$1.part" && mv "$1.part" "$1"; fi
}

for name in postgres owner app auth redis clickhouse clickhouse_reader grafana; do
    random | once "${name}_password"
done
random | once auth_service_token
{ printf 'k1:' && head -c 32 /dev/urandom | base64 | tr -d '\n'; } | once token_peppers

hash() {
    sha256sum <"$1" | cut -d ' ' -f 1
}

printf 'postgresql://ibex_owner:%s@postgres:5432/ibex' "$(cat owner_password)" | once owner_database_url
printf 'postgresql://ibex_app:%s@pgbouncer:6432/ibex' "$(cat app_password)" | once database_url
printf 'postgresql://ibex_auth:%s@pgbouncer:6432/ibex' "$(cat auth_password)" | once auth_database_url
printf 'http://ibex:%s@clickhouse:8123/ibex' "$(cat clickhouse_password)" | once clickhouse_url
printf 'redis://:%s@redis:6379/0' "$(cat redis_password)" | once redis_url
printf '"ibex_app" "%s"\n"ibex_auth" "%s"\n' "$(cat app_password)" "$(cat auth_password)" | once pgbouncer_users
once clickhouse_users.xml <<XML
<clickhouse>
    <profiles>
        <reader><readonly>2</readonly></reader>
    </profiles>
    <users>
        <default remove="remove"/>
        <ibex>
            <password_sha256_hex>$(hash clickhouse_password)</password_sha256_hex>
            <networks><ip>::/0</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT ALL ON ibex.*</query>
                <query>GRANT SELECT ON system.*</query>
            </grants>
        </ibex>
        <grafana>
            <password_sha256_hex>$(hash clickhouse_reader_password)</password_sha256_hex>
            <networks><ip>::/0</ip></networks>
            <profile>reader</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT SELECT ON ibex.*</query>
            </grants>
        </grafana>
    </users>
</clickhouse>
XML
