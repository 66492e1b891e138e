#!/usr/bin/env bash
# Requests that nobody means well by, TLS, compressed answers, the log (attacks.py).
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ ! -x "$(dirname "$cvx")/cvx-coordinator" ]; then
    echo "SKIP  attacks on the service: this build has no coordinator"
    finish
fi
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$tmp/key.pem" -out "$tmp/cert.pem" 2>/dev/null
python3 $here/attacks.py "$(realpath "$cvx")" "$tmp" || bad=$((bad + 1))
finish
