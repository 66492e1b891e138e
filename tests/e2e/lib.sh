# shellcheck shell=bash
# Shared by the end-to-end tests. Each is run from the source root as `tests/e2e/NAME.sh path/to/cvx`, prints one
# line for each thing it looked at, and exits 1 if any was wrong.

# used by the scripts that source this file
# shellcheck disable=SC2034
cvx=${1:?usage: NAME.sh path/to/cvx}
exec </dev/null # nothing here may wait for a terminal
tmp=$(mktemp -d)
trap 'unserve; rm -rf "$tmp"' EXIT
prompt="a red circle moving right on a black background"
here=tests/e2e

bad=0
ok() { printf 'ok    %s\n' "$1"; }
wrong() {
    printf 'WRONG %s\n' "$1"
    bad=$((bad + 1))
}

# expect NAME COMMAND...: the command succeeds.
expect() {
    local name=$1
    shift
    if "$@" >"$tmp/log" 2>&1; then
        ok "$name"
    else
        wrong "$name (exit $?): $*"
        tail -n 20 "$tmp/log"
    fi
}

# equal NAME WANTED GOT
equal() {
    if [ "$2" = "$3" ]; then
        ok "$1"
    else
        wrong "$1: wanted '$2', got '$3'"
    fi
}

# fails NAME CODE TEXT COMMAND...: exit code, one line on stderr, with the text
fails() {
    local name=$1 code=$2 text=$3 got=0
    shift 3
    "$@" >/dev/null 2>"$tmp/fails" || got=$?
    equal "$name: exit code" "$code" "$got"
    equal "$name: lines" 1 "$(wc -l <"$tmp/fails")"
    if grep -q -- "$text" "$tmp/fails"; then
        ok "$name: says '$text'"
    else
        wrong "$name: $(cat "$tmp/fails")"
    fi
}

# differ NAME A B: two files that must not hold the same bytes.
differ() {
    if [ -s "$2" ] && [ -s "$3" ] && ! cmp -s "$2" "$3"; then
        ok "$1"
    else
        wrong "$1: $2 and $3 are the same"
    fi
}

# generate ARGS...: `cvx generate` of the shapes checkpoint, quiet.
generate() { "$cvx" generate --model models/shapes --prompt "$prompt" --quiet "$@"; }

# shape FILE.safetensors TENSOR: its dims, "17,3,64,96"; also checks that every value is finite.
shape() { python3 "$here/tensors.py" shape "$1" "$2"; }

# probe FILE KEY: one field of the first video stream, by ffprobe.
probe() {
    ffprobe -v error -count_frames -select_streams v:0 -show_entries "stream=$2" -of default=nk=1:nw=1 "$1"
}

# needs WHAT PROGRAM...: the programs were built beside cvx; else the test says SKIP and ends.
needs() {
    local what=$1 program
    shift
    for program in "$@"; do
        if [ ! -x "$(dirname "$cvx")/$program" ]; then
            echo "SKIP  $what: this build has no $program"
            finish
        fi
    done
}

# needs_python WHAT: $python has what tests/python/requirements.txt names; else the test says SKIP and ends.
python=python3
needs_python() {
    if ! python=$(scripts/test-venv "$(dirname "$cvx")"); then
        echo "SKIP  $1: no Python environment for it"
        finish
    fi
}

# part NAME ARGS...: what tests/e2e/NAME.py looks at, which prints lines as these do.
part() {
    local name=$1
    shift
    "$python" "$here/$name.py" "$(realpath "$cvx")" "$tmp" "$@" || bad=$((bad + 1))
}

# serve ARGS...: `cvx serve` of the shapes checkpoint, its state in $tmp/data. Once it is ready $url says where; it ends with the
# test, or by unserve.
service=
serve() {
    local i
    : >"$tmp/serve.log"
    "$cvx" serve --model models/shapes --data-dir "$tmp/data" "$@" >"$tmp/serve.log" 2>&1 &
    service=$!
    for ((i = 0; i < 600; i++)); do
        url=$(sed -n 's/^cvx: \(http[^ ]*\) serves.*/\1/p' "$tmp/serve.log")
        if [ -n "$url" ] && curl -sf -o "$tmp/ready" "$url/readyz"; then
            return
        fi
        kill -0 "$service" 2>/dev/null || break
        sleep 0.1
    done
    wrong "no service: $(cat "$tmp/serve.log")"
    finish
}
unserve() {
    [ -z "$service" ] || { kill "$service" && wait "$service"; } || true
    service=
}

finish() {
    [ "$bad" -eq 0 ]
    exit $?
}
