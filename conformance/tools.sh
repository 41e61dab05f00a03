#!/usr/bin/env bash
# Installs the clients that conformance/clients drives, each from its ordinary package; quick when all are there.
#
#   conformance/tools.sh quick|full
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOOLS=${CAIRN_TOOLS:-$HOME/.cache/cairn-tools}
mkdir -p "$TOOLS"
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

packages() {
    local missing=()
    for name in "$@"; do
        dpkg -s "$name" >/dev/null 2>&1 || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
}

python_venv() { # directory, requirements
    local stamp
    stamp=$1/.$(sha256sum "$2" | cut -c1-16)
    [ ! -e "$stamp" ] || return 0
    rm -rf "$1"
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet -r "$2"
    touch "$stamp"
}

# Debian 12 has Node 18, and the SDK wants 20: the package `node` brings the program itself.
node_packages() { # directory, package.json
    local stamp major
    stamp=$1/.$(sha256sum "$2" | cut -c1-16)
    [ ! -e "$stamp" ] || return 0
    command -v node >/dev/null && command -v npm >/dev/null || packages nodejs npm
    rm -rf "$1"
    mkdir -p "$1"
    cp "$2" "$1/package.json"
    npm install --silent --no-audit --no-fund --prefix "$1"
    major=$(node --version | sed 's/^v//; s/\..*//')
    [ "$major" -ge 20 ] || npm install --silent --no-audit --no-fund --no-save --prefix "$1" node@22
    touch "$stamp"
}

packages python3-venv rclone restic openssl curl lighttpd lighttpd-mod-webdav
python_venv "$TOOLS/venv" "$HERE/requirements.txt"
[ "${1:-quick}" = full ] || exit 0

packages s3cmd
python_venv "$TOOLS/venv-data" "$HERE/requirements-data.txt"
node_packages "$TOOLS/node" "$HERE/js-sdk/package.json"
