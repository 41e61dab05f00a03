# Sourced by the conformance scripts: starts a gateway of its own on free ports and stops it at the end.
#
#   start_gateway [serve arguments]   sets GATEWAY_PORT, GATEWAY_ADMIN_PORT, GATEWAY_DIR, GATEWAY_PID
#   make_certificate DIR              makes ca.pem, cert.pem and key.pem for localhost and 127.0.0.1
#
# The directory goes with the script; set KEEP=1 to keep it.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CAIRN=${CAIRN:-$ROOT/bin/cairn}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# An authority and a certificate that it signed: a client on rustls refuses a server that presents an authority.
make_certificate() {
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
    openssl req -x509 "${key[@]}" -days 2 -subj "/CN=Cairn conformance" -addext "basicConstraints=critical,CA:TRUE" \
        -keyout "$1/ca-key.pem" -out "$1/ca.pem"
    openssl req "${key[@]}" -subj /CN=localhost -keyout "$1/key.pem" -out "$1/request.pem"
    printf '%s\n' "subjectAltName=DNS:localhost,IP:127.0.0.1" "basicConstraints=critical,CA:FALSE" \
        "extendedKeyUsage=serverAuth" >"$1/extensions"
    openssl x509 -req -in "$1/request.pem" -CA "$1/ca.pem" -CAkey "$1/ca-key.pem" \
        -CAcreateserial -days 2 -extfile "$1/extensions" -out "$1/cert.pem"
}

start_gateway() {
    GATEWAY_DIR=$(mktemp -d "${TMPDIR:-/tmp}/cairn-conformance.XXXXXX")
    GATEWAY_PORT=$(free_port)
    GATEWAY_ADMIN_PORT=$(free_port)
    "$CAIRN" serve --data "$GATEWAY_DIR/data" --listen "127.0.0.1:$GATEWAY_PORT" \
        --admin-listen "127.0.0.1:$GATEWAY_ADMIN_PORT" "$@" >"$GATEWAY_DIR/log" 2>&1 &
    GATEWAY_PID=$!
    trap stop_gateway EXIT
    for _ in $(seq 100); do
        curl -fsS "http://127.0.0.1:$GATEWAY_ADMIN_PORT/health/ready" >/dev/null 2>&1 && return
        kill -0 "$GATEWAY_PID" 2>/dev/null || break
        sleep 0.1
    done
    echo "the gateway did not start:" >&2
    tail -n 50 "$GATEWAY_DIR/log" >&2
    exit 1
}

stop_gateway() {
    kill "$GATEWAY_PID" 2>/dev/null && wait "$GATEWAY_PID" 2>/dev/null
    [ -n "${KEEP:-}" ] || rm -rf "$GATEWAY_DIR"
}
