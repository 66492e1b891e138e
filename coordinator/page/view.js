/* The chosen video: how far it is, how it looks, what it became. */
let chosen = null, shown = null, listener = null, current = null, previewed = 0;

function choose(id) {
  if (listener) listener.abort();
  for (const e of [$("video"), $("preview")]) {
    if (e.src) URL.revokeObjectURL(e.src);
    e.removeAttribute("src");
    e.hidden = true;
  }
  chosen = id;
  shown = current = listener = null;
  previewed = 0;
  history.replaceState(null, "", id ? "#" + id : location.pathname);
  $("preview-text").hidden = $("score-box").hidden = $("remix-form").hidden = true;
  $("view-error").textContent = "";
  $("delete").textContent = "Delete";
  if (!id) $("view").hidden = true;
  refresh();
}

function bar(percent) {
  $("view-bar").firstElementChild.style.width = percent + "%";
  $("view-bar").setAttribute("aria-valuenow", percent);
}

/* Server-sent events by fetch, which can carry a key. Goes on where it was when the line breaks. */
async function follow(id) {
  const mine = listener = new AbortController();
  let last = "";
  while (chosen === id && !mine.signal.aborted) {
    try {
      const answer = await fetch(`/v1/jobs/${id}/events`, { headers: headers(last ? { "Last-Event-ID": last } : {}), signal: mine.signal });
      if (answer.status === 404 || answer.status === 401) return;
      const reader = answer.ok ? answer.body.pipeThrough(new TextDecoderStream()).getReader() : null;
      for (let rest = ""; reader;) {
        const { done, value } = await reader.read();
        if (done || mine.signal.aborted) break;
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const e = Object.fromEntries(block.split("\n").map(l => [l.slice(0, l.indexOf(":")), l.slice(l.indexOf(":") + 2)]));
          if (e.id) last = e.id;
          if (e.event === "progress") progress(id, JSON.parse(e.data));
          if (e.event === "state") {
            refresh();
            if (OVER.includes(JSON.parse(e.data).status)) return;
          }
        }
      }
    } catch (e) { if (mine.signal.aborted) return; }
    await new Promise(r => setTimeout(r, 1000));
  }
}

/* The newest picture of what is being made. */
async function preview(id, step, steps) {
  if (!step || step === previewed) return;
  previewed = step;
  try {
    const picture = await (await ask("GET", `/v1/videos/${id}/content?variant=preview`)).blob();
    if (chosen !== id || shown === id) return;
    if ($("preview").src) URL.revokeObjectURL($("preview").src);
    $("preview").src = URL.createObjectURL(picture);
    $("preview").hidden = $("preview-text").hidden = false;
    $("preview-text").textContent = `after step ${step}${steps ? " of " + steps : ""}`;
  } catch (e) { /* the next one comes soon */ }
}

function progress(id, p) {
  if (chosen !== id || shown === id) return;
  const steps = current && current.id === id ? current.cvx.num_inference_steps : 0;
  preview(id, p.preview_step, steps);
  bar(p.progress);
  $("stage").textContent = `${p.stage}${p.steps > 0 ? ` ${p.step} of ${p.steps}` : ""}` +
    (p.eta_seconds >= 1 ? `, about ${seconds(p.eta_seconds)} left of this stage` : "");
  const mesh = $("facts").querySelector("[data-name=Mesh]");
  if (mesh && p.mesh) mesh.textContent = p.mesh;
}

function facts(v) {
  const c = v.cvx, list = { Size: `${c.width}x${c.height}, ${plural(c.num_frames, "frame")} at ${c.fps} a second`,
    Steps: `${c.num_inference_steps}, guidance ${c.guidance_scale}` + (c.scheduler ? `, ${c.scheduler}` : ""), Seed: c.seed,
    "Negative prompt": c.negative_prompt, LoRA: (c.lora || []).join(", "), "First frame": c.input_reference ? "a picture of yours" : "",
    After: [c.interpolate > 1 ? `${c.interpolate} frames for one` : "", c.upscale > 1 ? `${c.upscale} times larger` : ""].filter(s => s).join(", "),
    Pool: c.pool, Mesh: c.mesh || (v.status === "in_progress" ? "being chosen" : ""), Priority: c.priority === "normal" ? "" : c.priority,
    Expected: c.plan && !OVER.includes(v.status) ? `${seconds(c.plan.seconds)} on one rank of the coordinator's machine` : "",
    "Run time": c.run_seconds ? `${c.run_seconds.toFixed(1)} s` : "", Tries: c.attempts > 1 ? c.attempts : "",
    Turns: (c.options.timeline || []).join("; "), "Goes on from": c.options.extend,
    Windows: c.options.window_frames ? `${c.options.window_frames} frames` : "", "Best of": c.options.best_of ? plural(c.options.best_of, "seed") : "",
    "Remix of": v.remixed_from_video_id };
  return Object.entries(list).filter(f => f[1] !== "" && f[1] !== null && f[1] !== undefined).flatMap(([name, value]) => {
    const dd = make("dd");
    dd.dataset.name = name;
    if (["Remix of", "Goes on from"].includes(name)) {
      const b = make("button", "link", value);
      b.type = "button";
      b.onclick = () => choose(value);
      dd.append(b);
    } else dd.textContent = value;
    return [make("dt", "", name), dd];
  });
}

async function show(v) {
  const before = current, over = OVER.includes(v.status);
  current = v;
  if (before && JSON.stringify(before) === JSON.stringify(v)) return;
  $("view").hidden = false;
  $("title").textContent = v.prompt;
  $("status").textContent = words(v.status);
  $("status").className = "chip " + v.status;
  $("view-bar").hidden = over;
  if (v.status !== "in_progress") {
    bar(v.progress);
    $("stage").textContent = v.status === "queued" ? [v.cvx.attempts > 0 ? "for another try" : "for a pool", begins(v)].filter(t => t).join("; ") : "";
  } else if (!before) progress(v.id, { ...v.cvx, progress: v.progress });
  $("facts").replaceChildren(...facts(v));
  $("cause").textContent = v.error ? v.error.message : v.status === "queued" && v.cvx.cause ? v.cvx.cause : "";
  $("cancel").hidden = over;
  $("save").hidden = $("extend").hidden = v.status !== "completed";
  $("delete").hidden = !over;
  if (!over && !listener) follow(v.id);
  if (v.status === "completed" && shown !== v.id) await play(v);
  if (over && v.status !== "completed") $("preview-text").hidden = true;
}

async function play(v) {
  shown = v.id;
  try {
    const file = await (await ask("GET", `/v1/videos/${v.id}/content`)).blob();
    if (chosen !== v.id) return;
    const video = $("video");
    video.src = URL.createObjectURL(file);
    video.className = v.cvx.width < 240 ? "small" : "";
    video.setAttribute("aria-label", "The video: " + v.prompt);
    video.hidden = false;
    $("preview").hidden = $("preview-text").hidden = true;
    showScores(v);
  } catch (e) { shown = null; $("view-error").textContent = e.message; }
}

async function act(fn) {
  $("view-error").textContent = "";
  try { await fn(); await refresh(); } catch (e) { $("view-error").textContent = e.message; }
}
function openRemix(open) {
  $("remix-form").hidden = !open;
  $("remix").setAttribute("aria-expanded", String(open));
  if (open) { $("remix-prompt").value = current.prompt; $("remix-prompt").focus(); } else $("remix").focus();
}
$("cancel").onclick = () => act(() => call("POST", `/v1/jobs/${chosen}/cancel`));
$("remix").onclick = () => openRemix($("remix-form").hidden);
$("remix-no").onclick = () => openRemix(false);
$("remix-form").onsubmit = event => {
  event.preventDefault();
  act(async () => choose((await call("POST", `/v1/videos/${chosen}/remix`, { prompt: $("remix-prompt").value })).id));
};
$("copy").onclick = () => useSettings(current);
$("extend").onclick = () => goOn(current);
$("save").onclick = () => { const a = make("a"); a.href = $("video").src; a.download = chosen + ".mp4"; a.click(); };
$("delete").onclick = () => {
  if ($("delete").textContent === "Delete") { $("delete").textContent = "Really delete"; return; }
  act(async () => { await call("DELETE", `/v1/videos/${chosen}`); choose(null); });
};
