# Sourced by the other scripts: where things are.
# shellcheck shell=bash
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$ROOT/.cache
VENV=$CACHE/venv
PYTHON=$VENV/bin/python
WASM=${CARGO_TARGET_DIR:-$ROOT/target}/wasm32-unknown-unknown/release/wsferry.wasm

say() { printf '%s\n' "$*"; }
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Prints MAJOR.MINOR.PATCH of the Envoy $1, nothing if it doesn't run.
envoy_version() {
    { "$1" --version 2>/dev/null || true; } | sed -n 's|^.*version: [^/]*/\([0-9]*\.[0-9]*\.[0-9]*\).*|\1|p'
}
