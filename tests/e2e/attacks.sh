#!/usr/bin/env bash
# Requests that nobody means well by, TLS, compressed answers, the log (attacks.py).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "attacks on the service" cvx-coordinator
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$tmp/key.pem" -out "$tmp/cert.pem" 2>/dev/null
part attacks
finish
