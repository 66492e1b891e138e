"""Figures of slurm/bench.sh: throughput.py WORK RANKS...

Reads WORK/RANKS/events.jsonl (cvx-rank --json --stats) and WORK/plan.json (cvx plan --json); writes WORK/results.json and
WORK/chart.json (cvx chart), and prints the table. The first video of a run is its warm-up and is left out.
"""
import json
import sys


def videos(events):
    """Seconds of each video: its stages, from encode to mux."""
    out = []
    for e in events:
        if e["event"] == "stage" and e["stage"] == "encode":
            out.append(0.0)
        elif e["event"] == "stage_end":
            out[-1] += e["seconds"]
    return out


def step_seconds(events):
    ends = [e["seconds"] / e["total"] for e in events if e["event"] == "stage_end" and e["stage"] == "denoise"]
    return sum(ends[1:]) / len(ends[1:])


def run(folder, n, plan):
    with open(f"{folder}/{n}/events.jsonl") as f:
        events = [json.loads(line) for line in f]
    seconds = videos(events)
    timed = seconds[1:]
    mean = sum(timed) / len(timed)
    stats = next(e for e in events if e["event"] == "stats")
    note = next((e["text"] for e in events if e["event"] == "note" and " ranks as " in e["text"]), "")
    groups = 1
    words = note.split()
    if "data" in words:
        groups = int(words[words.index("data") + 1].rstrip(":"))
    sent = {}
    for x in stats["exchanges"]:
        sent[x["kind"]] = sent.get(x["kind"], 0) + sum(x["bytes_by_rank"])
    tflop = sum(s["tflop"] for s in plan["stages"])
    made = len(seconds) * groups
    return {"ranks": n, "mesh": note.split(" as ", 1)[1].split(":")[0] if note else "one rank",
            "seconds_per_video": mean, "fastest": min(timed), "slowest": max(timed), "step_seconds": step_seconds(events),
            "videos_per_hour": groups * 3600 / mean, "frames_per_second": groups * plan["num_frames"] / mean,
            "tflops": groups * tflop / mean, "timed": len(timed) * groups,
            "megabytes_per_video": {k: v / made / 1e6 for k, v in sorted(sent.items()) if v}}


def main(folder, counts):
    with open(f"{folder}/plan.json") as f:
        plan = json.load(f)
    rows = [run(folder, n, plan) for n in counts]
    first = rows[0]
    for r in rows:
        r["efficiency"] = r["videos_per_hour"] * first["ranks"] / (first["videos_per_hour"] * r["ranks"])
    with open(f"{folder}/results.json", "w") as f:
        json.dump({"frames": plan["num_frames"], "height": plan["height"], "width": plan["width"], "runs": rows}, f, indent=2)
    ideal = [first["videos_per_hour"] * r["ranks"] / first["ranks"] for r in rows]
    size = f"{plan['num_frames']} frames of {plan['width']}x{plan['height']}"
    with open(f"{folder}/chart.json", "w") as f:
        json.dump({"title": f"Throughput: {size}", "x_label": "ranks", "y_label": "videos an hour",
                   "x": [str(r["ranks"]) for r in rows],
                   "bars": [r["videos_per_hour"] for r in rows], "bars_label": "measured",
                   "line": ideal, "line_label": f"perfect scaling from {first['ranks']}"}, f)
    print(f"{size}; the first video of each run left out\n")
    print("| ranks | mesh | s a video | s a step | videos/h | frames/s | TFLOP/s | efficiency | MB sent a video, by exchange |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        sent = ", ".join(f"{k} {v:.1f}" for k, v in r["megabytes_per_video"].items()) or "none"
        print(f"| {r['ranks']} | {r['mesh']} | {r['seconds_per_video']:.2f} | {r['step_seconds']:.4f} | "
              f"{r['videos_per_hour']:.1f} | {r['frames_per_second']:.2f} | {r['tflops']:.3f} | {r['efficiency']:.0%} | {sent} |")


main(sys.argv[1], [int(n) for n in sys.argv[2:]])
