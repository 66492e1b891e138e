#!/usr/bin/env bash
# Every header must compile alone, and twice in a row, as C17 with all warnings as errors (templates of one
# instruction set, NAME.inc.h, are no headers).
# usage: headers.sh SOURCE_DIR COMPILER FLAGS...
set -euo pipefail
root=$1
cc=$2
shift 2
cd "$root"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

mapfile -t headers < <(find base kernels proto store client media parallel model rankworker coordinator cli \
    -name '*.h' ! -name '*.inc.h' 2>/dev/null | sort)
[ ${#headers[@]} -gt 0 ] || {
    echo "no header found below $root"
    exit 1
}
one() {
    printf '#include "%s"\n#include "%s"\ntypedef int cvx_not_empty;\n' "$1" "$1" >"$2"
    shift
    "${@:2}" -x c -std=c17 -D_GNU_SOURCE -Wall -Wextra -Wshadow -Wstrict-prototypes -Werror -fsyntax-only "$1"
}
bad=0
for h in "${headers[@]}"; do
    if ! one "$h" "$tmp/one.c" "$cc" -I. "$@" 2>"$tmp/log"; then
        echo "$h does not compile alone:"
        head -n 5 "$tmp/log"
        bad=$((bad + 1))
    fi
done
# the check itself must be able to fail
mkdir -p "$tmp/base"
echo 'cvx_unknown f(void);' >"$tmp/base/broken.h"
if (cd "$tmp" && one base/broken.h "$tmp/one.c" "$cc" -I. "$@" 2>/dev/null); then
    echo "a header with an unknown type was accepted: the check is broken"
    bad=$((bad + 1))
fi
echo "${#headers[@]} headers, $bad bad"
[ "$bad" -eq 0 ]
