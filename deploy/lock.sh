#!/bin/sh
# Make the hash locks anew from pyproject.toml, with a cool-down of one week. Needs `uv`.
set -eu
cd "$(dirname "$0")/.."
before=$(date -u -d '7 days ago' +%Y-%m-%dT00:00:00Z)
lock() { # lock NAME EXTRA…
    name=$1
    shift
    uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes \
        --no-annotate --no-header --exclude-newer "$before" "$@" -o "deploy/locks/$name.txt"
}
lock cpu --extra cpu --extra build
lock gpu --extra gpu --extra build
lock explain --extra explain # what the explain tier adds; it stands beside cpu or gpu
lock dev --extra cpu --extra explain --extra dev --extra build
