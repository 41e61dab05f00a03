#!/usr/bin/env bash
# Drives the gateway with real clients over HTTP and TLS and compares what comes back, byte for byte.
#
#   conformance/clients/run.sh quick|full [client ...]
#
# quick: aws CLI, boto3, rclone, restic, the Rust SDK, at sizes up to 40 MiB. full: every client, to 200 MiB.
# A client is a script beside this one. It finds in its environment: ENDPOINT, SCHEME, AWS_ACCESS_KEY_ID,
# AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_CA_BUNDLE (TLS only), FILES (a directory of inputs named by their size) and
# WORK (an empty directory of its own); it exits 0 when all came back equal. One that does not end is ended after
# CLIENT_SECONDS_MAX. Ends with `N passed, M failed`.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
MODE=${1:-quick}
shift || true
# shellcheck source=conformance/gateway.sh
. "$HERE/../gateway.sh"

sizes=(0 1 65535 65536 65537 5242881 41943040)
clients=(awscli boto3 rclone restic rust-sdk)
if [ "$MODE" = full ]; then
    sizes+=(8192 8193 8388608 209715200)
    clients+=(s3cmd s5cmd js-sdk s3fs pyarrow)
fi
[ $# -eq 0 ] || clients=("$@")

export AWS_ACCESS_KEY_ID=conformance AWS_SECRET_ACCESS_KEY=conformance-secret AWS_REGION=us-east-1
export AWS_DEFAULT_REGION=$AWS_REGION AWS_EC2_METADATA_DISABLED=true AWS_CONFIG_FILE=/dev/null
unset AWS_CA_BUNDLE AWS_ENDPOINT_URL AWS_PROFILE AWS_SESSION_TOKEN
export CAIRN_ROOT_ACCESS_KEY=$AWS_ACCESS_KEY_ID CAIRN_ROOT_SECRET_KEY=$AWS_SECRET_ACCESS_KEY
export TOOLS=${CAIRN_TOOLS:-$HOME/.cache/cairn-tools}

scratch=$(mktemp -d "${TMPDIR:-/tmp}/cairn-clients.XXXXXX")
cleanup() { stop_gateway; rm -rf "$scratch"; }

make_files() {
    export FILES=$scratch/files
    mkdir "$FILES"
    for size in "${sizes[@]}"; do
        head -c "$size" /dev/urandom >"$FILES/$size"
    done
}

passed=0
failed=0
run_clients() {
    for client in "${clients[@]}"; do
        export WORK=$scratch/work/$SCHEME-$client
        mkdir -p "$WORK"
        started=$SECONDS
        if HOME=$WORK timeout -k 10 "${CLIENT_SECONDS_MAX:-1200}" bash "$HERE/$client.sh" >"$WORK.log" 2>&1; then
            passed=$((passed + 1))
            echo "ok      $SCHEME $client ($((SECONDS - started)) s)"
        else
            failed=$((failed + 1))
            echo "FAILED  $SCHEME $client"
            tail -n 30 "$WORK.log" | sed 's/^/    /'
        fi
        rm -rf "$WORK"
    done
}

echo "$("$CAIRN" --version), sizes $(printf '%s\n' "${sizes[@]}" | sort -n | xargs)"
make_certificate "$scratch" 2>"$scratch/openssl.log" || { cat "$scratch/openssl.log" >&2; exit 1; }
make_files
export REAL_HOME=$HOME

start_gateway
trap cleanup EXIT
export SCHEME=http ENDPOINT=http://127.0.0.1:$GATEWAY_PORT
run_clients
stop_gateway

start_gateway --tls-cert "$scratch/cert.pem" --tls-key "$scratch/key.pem"
trap cleanup EXIT
export SCHEME=https ENDPOINT=https://127.0.0.1:$GATEWAY_PORT
export AWS_CA_BUNDLE=$scratch/ca.pem SSL_CERT_FILE=$scratch/ca.pem NODE_EXTRA_CA_CERTS=$scratch/ca.pem
run_clients

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
