/* The queue and the pools, asked for every two seconds while somebody looks. */
const TABS = [["", "all"], ["queued", "waiting"], ["in_progress", "running"], ["completed", "completed"], ["failed", "failed"]];
const PAGE = 20;
let tab = "", limit = PAGE, drawn = {}, thumbs = new Map();

$("tabs").append(...TABS.map(([state, text]) => {
  const b = make("button", "", text);
  b.type = "button";
  b.setAttribute("aria-pressed", String(state === tab));
  b.onclick = () => {
    tab = state;
    limit = PAGE;
    for (const other of $("tabs").children) other.setAttribute("aria-pressed", String(other === b));
    refresh();
  };
  return b;
}));
$("more").onclick = () => { limit = Math.min(100, limit + PAGE); refresh(); };

/* Puts new children into a list only where something changed, and keeps the focus. */
function redraw(list, key, children) {
  if (drawn[list.id] === key) return;
  drawn[list.id] = key;
  const focus = document.activeElement && list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  list.replaceChildren(...children());
  if (focus) for (const e of list.querySelectorAll("[data-key]")) if (e.dataset.key === focus) e.focus();
}

async function thumbnail(img, v) {
  if (!thumbs.has(v.id)) thumbs.set(v.id, ask("GET", `/v1/videos/${v.id}/content?variant=thumbnail`).then(a => a.blob()).then(URL.createObjectURL).catch(() => null));
  const url = await thumbs.get(v.id);
  if (url) img.src = url;
}

function row(v) {
  const b = make("button", "job"), time = new Date(v.created_at * 1000);
  b.type = "button";
  b.dataset.testid = "job";
  b.dataset.key = v.id;
  b.setAttribute("aria-current", String(v.id === chosen));
  let picture = make("span", "thumb");
  if (v.status === "completed") {
    picture = make("img", "thumb");
    picture.alt = "";
    thumbnail(picture, v);
  }
  const when = time.toDateString() === new Date().toDateString() ? time.toLocaleTimeString() : time.toLocaleString();
  b.append(picture, make("span", "p", v.prompt), make("span", "chip " + v.status, words(v.status)),
    make("span", "dim", [begins(v), `${v.cvx.width}x${v.cvx.height}`, `${Number(v.seconds).toFixed(1)} s`,
      v.cvx.priority === "normal" ? "" : v.cvx.priority + " priority", begins(v) ? "" : when].filter(t => t).join(", ")));
  if (v.status === "in_progress") {
    const bar = make("div", "bar", make("i"));
    bar.firstElementChild.style.width = v.progress + "%";
    b.append(bar);
  }
  b.onclick = () => { choose(v.id); $("view").scrollIntoView({ block: "nearest" }); };
  return make("li", "", b);
}

/* [0, 1, 2, 5] as "0-2, 5". */
function spans(numbers) {
  const parts = [];
  for (const n of numbers) {
    const last = parts[parts.length - 1];
    if (last && last[1] === n - 1) last[1] = n; else parts.push([n, n]);
  }
  return parts.map(([a, b]) => a === b ? a : `${a}-${b}`).join(", ");
}

/* A line for the ranks of each host and device. */
function members(p) {
  const kinds = new Map();
  for (const r of p.members) {
    const kind = `on ${r.host}: ${r.device}, ${plural(r.threads, "thread")}`;
    kinds.set(kind, [...(kinds.get(kind) || []), r.rank]);
  }
  return [...kinds].map(([kind, ranks]) => make("div", "dim", `${ranks.length > 1 ? "ranks" : "rank"} ${spans(ranks)} ${kind}`));
}

function pool(p) {
  const li = make("li"), jobs = p.jobs && p.jobs.length ? p.jobs : p.job ? [p.job] : [];
  li.dataset.testid = "pool";
  li.append(make("div", "name", make("span", "", p.id), make("span", "chip " + p.state, p.state)),
    make("div", "dim", `${plural(p.ranks, "rank")}; ${p.completed} completed`), ...members(p));
  if (p.mesh || jobs.length) {
    const line = make("div", "dim", p.mesh ? `mesh ${p.mesh}; ` : "", jobs.length ? "runs " : "");
    for (const id of jobs) {
      const b = make("button", "link", id.slice(0, 14));
      b.type = "button";
      b.dataset.key = p.id + id;
      b.onclick = () => choose(id);
      line.append(b);
    }
    li.append(line);
  }
  return li;
}

const hint = (tab, text) => [make("li", "dim", tab ? "None." : text)];
async function refresh() {
  try {
    const [videos, pools] = await Promise.all([call("GET", `/v1/videos?limit=${limit}${tab ? "&status=" + tab : ""}`), call("GET", "/v1/pools")]);
    redraw($("jobs"), JSON.stringify([chosen, tab, videos.data]), () => videos.data.length ? videos.data.map(row)
      : hint(tab, "Nothing yet. Describe a video and press Generate."));
    $("more").hidden = !videos.has_more || limit >= 100;
    pools.data.sort((a, b) => a.id < b.id ? -1 : 1);
    redraw($("pools"), JSON.stringify(pools.data.map(p => ({ ...p, age_seconds: 0 }))), () => pools.data.length ? pools.data.map(pool)
      : hint("", "No pool of ranks is there, so jobs wait. cvx-rank --pool or slurm/pool.sh joins one."));
    const v = chosen && (videos.data.find(x => x.id === chosen) || await call("GET", `/v1/videos/${chosen}`));
    if (v && v.id === chosen) await show(v);
    notice(null);
  } catch (e) {
    if (e.status === 404 && chosen) { choose(null); $("notice").hidden = false; }
    notice(e);
  }
}

async function start() {
  drawn = {};
  refresh();
  const models = await call("GET", "/v1/models").catch(() => null);
  $("model").textContent = models ? models.data.map(m => m.id).join(", ") : "";
  fillDefaults();
}
addEventListener("hashchange", () => { if (/^#video_[0-9a-f]+$/.test(location.hash) && location.hash.slice(1) !== chosen) choose(location.hash.slice(1)); });
if (/^#video_[0-9a-f]+$/.test(location.hash)) choose(location.hash.slice(1));
start();
setInterval(() => { if (!document.hidden) refresh(); }, 2000);
</script>
</body>
</html>
