# shellcheck shell=bash
# Shared by the scripts: where the source is, how to speak, how results are counted.
# Sourced, not run: `. "$(dirname "$0")/lib.sh"`.


# used by the scripts that source this file
# shellcheck disable=SC2034
CVX_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# A heading, so that a log of several minutes can be read.
say() { printf '\n== %s\n' "$*"; }

# One line that names the cause, then exit 1.
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

jobs_count() { nproc 2>/dev/null || echo 2; }

# The tally of a script: every test counts once.
passed=0
failed=0
failures=()

# check NAME COMMAND...: runs a command; its exit status decides. The output is shown when it fails.
check() {
    local name=$1 log rc=0
    shift
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || rc=$?
    if [ "$rc" -eq 0 ]; then
        passed=$((passed + 1))
        printf 'pass  %s\n' "$name"
    else
        failed=$((failed + 1))
        failures+=("$name (exit $rc)")
        printf 'FAIL  %s (exit %d)\n' "$name" "$rc"
        # a sanitizer's report names the cause at its head
        grep -m 1 -A 12 -E 'ERROR: |runtime error: ' "$log" | sed 's/^/      /' || true
        tail -n 20 "$log" | sed 's/^/      /'
    fi
    rm -f "$log"
}

# tally_finish: the names of what failed, then the last line `N passed, N failed`; its status is the result.
tally_finish() {
    local f
    for f in "${failures[@]+"${failures[@]}"}"; do
        printf 'failed: %s\n' "$f"
    done
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
