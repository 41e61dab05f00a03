#!/usr/bin/env bash
# Runs ceph/s3-tests against a gateway of its own and compares with the lists beside this script.
#
#   conformance/s3-tests/run.sh SUITE_DIR [pytest arguments]
#
# SUITE_DIR is a checkout of the suite; it is only read. Without pytest arguments test_s3 and test_headers run.
# TLS=1 runs it over HTTPS, where boto3 takes away the empty Content-Length of
# test_object_create_bad_contentlength_empty, which then fails. Without arguments every test of pass.txt must have run.
# The last line is `N passed, M failed, K skipped`. Exit 0: every result is as the lists say.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 1 ] || { sed -n '2,10p' "$0"; exit 2; }
SUITE=$(cd "$1" && pwd)
shift
WHOLE=()
[ $# -gt 0 ] || { WHOLE=(--whole); set -- s3tests/functional/test_s3.py s3tests/functional/test_headers.py; }

# shellcheck source=conformance/gateway.sh
. "$HERE/../gateway.sh"

VENV=${CAIRN_S3TESTS_VENV:-$HOME/.cache/cairn-s3-tests}
if [ ! -x "$VENV/bin/pytest" ]; then
    python3 -m venv "$VENV"
    "$VENV/bin/pip" install --quiet -r "$SUITE/requirements.txt" pytest-timeout
fi

serve=(--identities "$HERE/identities.toml")
secure=False
if [ -n "${TLS:-}" ]; then
    certificate=$(mktemp -d "${TMPDIR:-/tmp}/cairn-certificate.XXXXXX")
    make_certificate "$certificate" 2>/dev/null
    serve+=(--tls-cert "$certificate/cert.pem" --tls-key "$certificate/key.pem")
    secure=True
fi
start_gateway "${serve[@]}"
[ -z "${TLS:-}" ] || trap 'stop_gateway; rm -rf "$certificate"' EXIT
sed "s/@PORT@/$GATEWAY_PORT/; s/@SECURE@/$secure/" "$HERE/s3tests.conf.in" >"$GATEWAY_DIR/s3tests.conf"

cd "$SUITE"
S3TEST_CONF="$GATEWAY_DIR/s3tests.conf" "$VENV/bin/pytest" -q -p no:cacheprovider --timeout 120 -o timeout_func_only=true \
    -o junit_family=xunit2 --junitxml "$GATEWAY_DIR/results.xml" --tb native "$@" \
    >"$GATEWAY_DIR/pytest.log" 2>&1 || [ $? -eq 1 ] || { tail -n 40 "$GATEWAY_DIR/pytest.log"; exit 1; }
[ -z "${RESULTS:-}" ] || cp "$GATEWAY_DIR/results.xml" "$GATEWAY_DIR/pytest.log" "$RESULTS/"
python3 "$HERE/compare.py" "$GATEWAY_DIR/results.xml" "$HERE/pass.txt" "$HERE/expected-fail.txt" "${WHOLE[@]}"
