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

packages python3-venv rclone restic openssl curl
python_venv "$TOOLS/venv" "$HERE/requirements.txt"
[ "${1:-quick}" = full ] || exit 0

packages s3cmd
command -v node >/dev/null || packages nodejs npm
python_venv "$TOOLS/venv-data" "$HERE/requirements-data.txt"
[ -d "$TOOLS/node/node_modules/@aws-sdk/lib-storage" ] ||
    npm install --silent --prefix "$TOOLS/node" @aws-sdk/client-s3@3.1169.0 @aws-sdk/lib-storage@3.1169.0
