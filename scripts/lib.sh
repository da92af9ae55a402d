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

# Least version whose upstream HTTP filters, internal listeners and Wasm are what envoy/*.yaml use.
ENVOY_LEAST=1.36

# Prints MAJOR.MINOR.PATCH of the Envoy $1, nothing if it doesn't run.
envoy_version() {
    "$1" --version 2>/dev/null | sed -n 's|^.*version: [^/]*/\([0-9]*\.[0-9]*\.[0-9]*\).*|\1|p'
}

# Prints the path of the Envoy to use: $ENVOY, the one in PATH if it is new enough, or the venv's.
find_envoy() {
    local candidate version
    for candidate in "${ENVOY:-}" "$(command -v envoy || true)" \
        "$VENV"/lib/python3*/site-packages/envoy/_bin/envoy; do
        [[ -x $candidate ]] || continue
        version=$(envoy_version "$candidate")
        [[ -n $version ]] || continue
        if [[ $(printf '%s\n' "$ENVOY_LEAST" "$version" | sort -V | head -n 1) == "$ENVOY_LEAST" ]]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}
