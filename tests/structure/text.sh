#!/usr/bin/env bash
# What a reader of the source must not meet: unfinished marks, marks of an unfinished merge, banned functions, functions of
# more than 100 lines, kernels that may not be launchable, scripts that the shell or Python cannot read, links in the documentation that lead nowhere.
# usage: text.sh SOURCE_DIR
set -euo pipefail
cd "$1"
bad=0
complain() {
    [ -z "$2" ] && return
    printf '%s:\n%s\n' "$1" "$2"
    bad=1
}

mapfile -t code < <(find base kernels proto store client media parallel model rankworker coordinator cli tools tests bench \
    -type f \( -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' -o -name '*.def' \) | sort)
complain "unfinished" "$(grep -nE '\b(TODO|FIXME|XXX|HACK)\b' "${code[@]}" || true)"
mapfile -t library < <(printf '%s\n' "${code[@]}" | grep -v '^tests/')
complain "banned function (no bound, or no error report)" \
    "$(grep -nE '\b(sprintf|vsprintf|strcpy|strcat|gets|atoi|atol|atof|strtok)[[:space:]]*\(' "${library[@]}" || true)"
complain "-ffast-math changes results" "$(grep -nE 'ffast-math' CMakeLists.txt cmake/* | grep -v '^[^:]*:[0-9]*:[[:space:]]*#' || true)"

mapfile -t all < <(find . \( -path './build*' -o -path ./out -o -path ./.venv -o -path ./.git -o -path ./models -o -path ./tests/data \) -prune \
    -o -type f -print | sort)
complain "a merge was not finished" "$(grep -nIE '^(<{7}|>{7}|[|]{7}) ' "${all[@]}" || true)"
unread=""
while IFS= read -r script; do
    case $(head -c 40 "$script" | tr -d '\0' | head -n 1) in
    '#!'*bash*) unread+=$(bash -n "$script" 2>&1 || true) ;;
    '#!'*python3*) unread+=$(python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])' "$script" 2>&1 || true) ;;
    esac
done < <(printf '%s\n' "${all[@]}" | grep -vE '\.(c|h|cc|cu|cuh|md|json|html|css|js|lua|png|txt)$')
complain "a script that cannot be read" "$unread"

# top-level functions by their braces in column 1, as the code style writes them
complain "longer than 100 lines" "$(awk '
    FNR == 1 { open = 0 }
    /^[A-Za-z_].*\(/ { name = $0; start = FNR }
    /^\{/ { open = 1 }
    /^\}/ { if (open && FNR - start > 100) printf "%s:%d %d lines: %s\n", FILENAME, start, FNR - start, name; open = 0 }
' "${code[@]}")"

complain "a kernel without the most threads that it is launched with: the compiler may give it registers that do not fit" \
    "$(grep -nE '__global__' "${code[@]}" | grep -v '^tests/' | grep -v '__launch_bounds__' || true)"

links=""
while IFS= read -r doc; do
    while IFS= read -r link; do
        case $link in
        http://* | https://* | '#'* | '') continue ;;
        esac
        [ -e "$(dirname "$doc")/${link%%#*}" ] || links+="$doc: $link"$'\n'
    done < <(grep -oE '\]\([^) ]+\)' "$doc" | sed -E 's/^\]\((.*)\)$/\1/')
done < <(find . -path './build*' -prune -o -path ./out -prune -o -path ./.venv -prune -o -name '*.md' -print)
complain "links that lead nowhere" "$links"
exit $bad
