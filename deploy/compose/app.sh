#!/bin/sh
# An application that caches: some forty requests a second over one connection, and once a second it says what it sees.
set -eu

load() {
    number=0
    while :; do
        number=$(((number + 1) % 100))
        echo "GET page:$number"
        echo "SET page:$number hello EX 60"
        sleep 0.05
    done | redis-cli -u "$REDIS_URL" >/dev/null
}

# redis-cli ends if its connection does; this must not.
while :; do
    load || true
    sleep 1
done &

while :; do
    printf '%s  GET page:1 -> "%s"  SET greeting -> "%s"\n' "$(date +%T)" \
        "$(redis-cli -u "$REDIS_URL" GET page:1 2>&1)" "$(redis-cli -u "$REDIS_URL" SET greeting hello EX 60 2>&1)"
    sleep 1
done
