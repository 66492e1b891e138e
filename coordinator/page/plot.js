/* The score of every frame under the video: drifting frames marked, the shown one too; click, drag or arrow keys seek. */
const plot = { v: null, at: 0 };

const perFrame = () => ($("video").duration || Number(plot.v.seconds) || 1) / plot.v.cvx.scores.frames.length;
function seek(frame) {
  const n = plot.v.cvx.scores.frames.length;
  /* the middle of its time, so that rounding shows no neighbour */
  $("video").currentTime = (Math.min(n - 1, Math.max(0, frame)) + 0.5) * perFrame();
}

function drawPlot() {
  const s = plot.v && plot.v.cvx.scores, svg = $("plot"), w = svg.clientWidth, h = 170;
  svg.replaceChildren();
  if (!s || !w) return;
  const n = s.frames.length, low = Math.min(...s.frames), high = Math.max(...s.frames), span = Math.max(high - low, 1);
  const left = 40, right = 12, top = 12, bottom = 24;
  const x = i => left + (w - left - right) * (n > 1 ? i / (n - 1) : 0.5), y = f => h - bottom - (h - top - bottom) * (f - low) / span;
  const add = (tag, attributes, text) => {
    const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const k in attributes) e.setAttribute(k, attributes[k]);
    if (text !== undefined) e.textContent = text;
    svg.append(e);
    return e;
  };
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  for (const f of new Set([low, low + span])) {
    add("line", { x1: left, x2: w - right, y1: y(f), y2: y(f), stroke: "var(--line)" });
    add("text", { x: left - 6, y: y(f) + 4, "text-anchor": "end" }, f.toFixed(1));
  }
  add("line", { x1: left, x2: w - right, y1: y(s.mean), y2: y(s.mean), stroke: "var(--dim)", "stroke-dasharray": "4 4" });
  add("text", { x: left, y: h - 6 }, "0");
  add("text", { x: w - right, y: h - 6, "text-anchor": "end" }, String(n - 1));
  for (const i of s.drift) add("line", { x1: x(i), x2: x(i), y1: top, y2: h - bottom, stroke: "var(--bad)", "stroke-opacity": 0.35, "stroke-width": 2 });
  add("polyline", { points: s.frames.map((f, i) => `${x(i)},${y(f)}`).join(" "), fill: "none", stroke: "var(--accent)", "stroke-width": 2 });
  if (n <= 200) s.frames.forEach((f, i) => { if (!s.drift.includes(i)) add("circle", { cx: x(i), cy: y(f), r: 2.5, fill: "var(--accent)" }); });
  for (const i of s.drift) add("circle", { cx: x(i), cy: y(s.frames[i]), r: 5, fill: "var(--bad)", class: "drift", "data-frame": i });
  const mark = add("line", { y1: top - 4, y2: h - bottom, stroke: "var(--text)", "stroke-width": 1.5, "data-testid": "mark" });
  const label = add("text", { y: h - 6, "text-anchor": "middle" });
  const frameAt = e => Math.round((e.clientX - svg.getBoundingClientRect().left - left) / (w - left - right) * (n - 1));
  const tell = i => {
    plot.at = Math.min(n - 1, Math.max(0, i));
    for (const k of ["x1", "x2"]) mark.setAttribute(k, x(plot.at));
    label.setAttribute("x", Math.min(w - 90, Math.max(left + 90, x(plot.at))));
    label.textContent = `frame ${plot.at}: ${s.frames[plot.at].toFixed(1)}${s.drift.includes(plot.at) ? ", drifts" : ""}`;
    svg.setAttribute("aria-valuenow", plot.at);
    svg.setAttribute("aria-valuetext", label.textContent);
  };
  svg.setAttribute("aria-valuemin", 0);
  svg.setAttribute("aria-valuemax", n - 1);
  svg.onpointermove = e => { if (e.buttons) seek(frameAt(e)); tell(frameAt(e)); };
  svg.onpointerdown = e => { $("video").pause(); seek(frameAt(e)); tell(frameAt(e)); };
  svg.onpointerleave = () => plot.follow();
  svg.onkeydown = e => {
    const to = { ArrowLeft: plot.at - 1, ArrowRight: plot.at + 1, Home: 0, End: n - 1 }[e.key];
    if (to === undefined) return;
    e.preventDefault();
    $("video").pause();
    seek(to);
    tell(to);
  };
  plot.follow = () => tell(Math.floor($("video").currentTime / perFrame()));
  $("video").ontimeupdate = plot.follow;
  plot.follow();
}

function showScores(v) {
  const s = v.cvx.scores;
  plot.v = v;
  $("score-box").hidden = !s;
  if (!s) return;
  $("scores").textContent = `CLIP score against the prompt: mean ${s.mean.toFixed(1)} (dashed), from ${Math.min(...s.frames).toFixed(1)} to ` +
    `${Math.max(...s.frames).toFixed(1)}. ` + (s.drift.length ? "" : "No frame drifts.");
  $("drift").replaceChildren(...(s.drift.length ? [make("span", "dim", "Drifting frames:")] : []), ...s.drift.slice(0, 40).map(i => {
    const b = make("button", "link", String(i));
    b.type = "button";
    b.setAttribute("aria-label", `Go to drifting frame ${i}`);
    b.onclick = () => { $("video").pause(); seek(i); };
    return b;
  }), ...(s.drift.length > 40 ? [make("span", "dim", `and ${s.drift.length - 40} more`)] : []));
  drawPlot();
}
new ResizeObserver(drawPlot).observe($("plot"));
