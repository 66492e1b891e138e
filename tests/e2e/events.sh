#!/usr/bin/env bash
# What a run tells: JSON events that parse, bars, silence with --quiet, scores, and what the other commands print.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

"$cvx" generate --model models/shapes --prompt "$prompt" --output "$tmp/a.mp4" --num-inference-steps 4 \
    --clip-model models/shapes-clip --json >"$tmp/events" 2>"$tmp/err" || wrong "--json run (exit $?)"
expect "every line is a JSON event, in order" python3 - "$tmp/events" <<'PY'
import json, sys
events = [json.loads(line) for line in open(sys.argv[1])]
stages = [e["stage"] for e in events if e["event"] == "stage"]
wanted = ["encode", "denoise", "decode", "score", "mux"]
assert [s for s in stages if s in wanted] == wanted, stages
steps = [e["done"] for e in events if e["event"] == "step" and e["stage"] == "denoise"]
assert steps == [1, 2, 3, 4], steps
assert all(e["total"] == 4 for e in events if e.get("stage") == "denoise"), events
ended = [e["stage"] for e in events if e["event"] == "stage_end"]
assert set(wanted) <= set(ended), ended
PY
equal "--json says nothing else" "" "$(cat "$tmp/err")"

"$cvx" generate --model models/shapes --prompt "$prompt" --output "$tmp/b.mp4" --num-inference-steps 1 --quiet \
    >"$tmp/out" 2>&1 || wrong "--quiet run (exit $?)"
equal "--quiet is quiet" "" "$(cat "$tmp/out")"
"$cvx" generate --model models/shapes --prompt "$prompt" --output "$tmp/b.mp4" --num-inference-steps 2 \
    >"$tmp/out" 2>"$tmp/err" || wrong "plain run (exit $?)"
expect "bars name the stages" grep -q 'denoise.*2/2' "$tmp/err"
expect "the last line names the file" grep -q "b.mp4" "$tmp/out"
expect "on terminals of 80, 40 and 20 columns no bar wraps" python3 - "$cvx" "$prompt" "$tmp/b.mp4" <<'PY'
import fcntl, os, pty, re, struct, sys, termios
for columns in (80, 40, 20):
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execv(sys.argv[1], [sys.argv[1], "generate", "--model", "models/shapes", "--num-inference-steps", "3", "--num-frames",
                               "9", "--prompt", sys.argv[2], "--output", sys.argv[3]])
    told = b""
    try:
        while part := os.read(terminal, 4096):
            told += part
    except OSError:  # the other side is closed
        pass
    assert os.waitpid(child, 0)[1] == 0, told
    bars = [b for b in re.split(rb"[\r\n]", told.replace(b"\x1b[K", b"")) if re.match(rb"denoise  .*[^s]$", b)]
    print(columns, bars)
    assert len(bars) == 4 and all(len(b) < columns for b in bars), bars
    assert all((b"[" in b) == (columns > 20) for b in bars), bars
PY

# shellcheck disable=SC2317 # run by expect
score() {
    "$cvx" score --clip-model models/shapes-clip --prompt "$prompt" --json --plot "$tmp/p.png" "$tmp/a.mp4" >"$tmp/score"
}
expect "cvx score --json" score
# the manifest's scores are of the frames, those of cvx score of what x264 left of them
expect "one score a frame, near those of the manifest" python3 - "$tmp/score" "$tmp/a.mp4.json" <<'PY'
import json, sys
score, manifest = (json.load(open(path)) for path in sys.argv[1:])
assert len(score["frames"]) == 17, score
assert abs(score["mean"] - sum(score["frames"]) / 17) < 0.01, score
assert abs(score["mean"] - manifest["scores"]["mean"]) < 5, (score["mean"], manifest["scores"]["mean"])
PY
equal "the plot is a PNG" png "$(probe "$tmp/p.png" codec_name)"

for args in "inspect models/shapes" "doctor" "plan --model models/shapes --prompt x --output x.mp4" "--help" "--version" \
    "generate --help" "completion bash" "man $tmp/man"; do
    # shellcheck disable=SC2086 # words on purpose
    expect "cvx $args" "$cvx" $args
done
equal "a page for each command" "$("$cvx" --help | grep -c "^  [a-z]")" "$(find "$tmp/man" -name "cvx-*.1" | wc -l)"
"$cvx" completion bash >"$tmp/completion" && expect "bash reads its completion" bash -n "$tmp/completion"
finish
