# Sourced by the other scripts: where things are.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$ROOT/.cache
VENV=$CACHE/venv
PYTHON=$VENV/bin/python
if [[ -n ${CARGO_TARGET_DIR:-} ]]; then
    CARGO_TARGET_DIR=$(realpath -m "$CARGO_TARGET_DIR")
    export CARGO_TARGET_DIR
fi
WASM=${CARGO_TARGET_DIR:-$ROOT/target}/wasm32-unknown-unknown/release/wsferry.wasm

say() { printf '%s\n' "$*"; }
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# apt_install PACKAGE...: as root or with sudo; says so on stderr, and what apt-get said where it failed.
apt_install() {
    local as_root=() log=$CACHE/apt.log
    command -v apt-get >/dev/null || die "no apt-get here; install yourself: $*"
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "neither root nor sudo here; install yourself: $*"
        as_root=(sudo)
    fi
    say "$(basename "$0"): apt-get install $*, see $log" >&2
    mkdir -p "$CACHE"
    # On a machine that was just started somebody else may be installing.
    local options=(-y --no-install-recommends --no-remove -o DPkg::Lock::Timeout=300)
    # The lists of packages may be old, or not there at all on a fresh machine.
    if ! { "${as_root[@]}" apt-get update || say "apt-get update failed, going on with old lists"
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "$@"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "apt-get failed, see $log; it removes nothing by itself: if packages conflict, like rustc with rustc-web, remove those that are there"
    fi
}

# install_missing PACKAGE...: with apt-get, unless they are there.
install_missing() {
    local missing=() package
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
}

# Whether the active rustc is as new as Cargo.toml asks for.
has_rust() {
    local least version
    least=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml")
    version=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) || return 1
    [[ $(printf '%s\n' "$least" "$version" | sort -V | head -n 1) == "$least" ]]
}

# use_debian_rust PACKAGE...: takes Debian's, with these packages, and newer ones where they are too old.
use_debian_rust() {
    export PATH=/usr/bin:$PATH
    install_missing "$@"
    has_rust || apt_install "$@"
    has_rust || die "$(rustc --version) is too old; Debian's newer ones are in its security updates (bookworm-security, trixie-security)"
}

# Where the active Rust is too old, or there is none, takes Debian's.
use_rust() {
    has_rust || use_debian_rust rustc-web cargo-web
}

# alone NAME: waits until no other run of this checkout's scripts holds the lock of that name, and holds it until the end.
alone() {
    mkdir -p "$CACHE"
    exec {lock}>"$CACHE/$1.lock"
    flock --nonblock "$lock" || {
        say "$(basename "$0"): waits for another run of it" >&2
        flock "$lock"
    }
}

# Prints MAJOR.MINOR.PATCH of the Envoy $1, nothing if it doesn't run.
envoy_version() {
    { "$1" --version 2>/dev/null || true; } | sed -n 's|^.*version: [^/]*/\([0-9]*\.[0-9]*\.[0-9]*\).*|\1|p'
}
