/* A new video: its settings, and what they would take. */
const form = $("form");

/* What the form asks for, empty fields left out. */
function settings() {
  const out = {};
  for (const e of form.elements) {
    if (!e.name || (e.type === "checkbox" ? !e.checked : !e.value.trim())) continue;
    out[e.name] = e.type === "checkbox" ? true : e.type === "number" || ["upscale", "frame_interpolation_exp"].includes(e.name) ? Number(e.value)
      : ["lora", "timeline"].includes(e.name) ? e.value.split(e.name === "lora" ? "," : "\n").map(s => s.trim()).filter(s => s) : e.value;
  }
  if (out.frame_interpolation_exp) out.enable_frame_interpolation = true;
  return out;
}

/* Fills the form with a video's settings. */
function useSettings(v) {
  const c = v.cvx, own = { ...c, prompt: v.prompt, frame_interpolation_exp: c.interpolate > 1 ? Math.log2(c.interpolate) : "",
    upscale: c.upscale > 1 ? c.upscale : "", lora: (c.lora || []).join(", "), ...c.options };
  own.timeline = (own.timeline || []).join("\n");
  if (c.interpolate > 1 || c.upscale > 1 || own.extend) own.num_frames = own.fps = own.width = own.height = ""; /* those of the finished file */
  for (const e of form.elements) {
    if (!e.name) continue;
    if (e.type === "checkbox") e.checked = Boolean(own[e.name]);
    else e.value = own[e.name] === undefined || own[e.name] === null ? (e.name === "priority" ? "normal" : "") : own[e.name];
  }
  $("settings").open = true;
  $("long").open = Object.keys(c.options).length > 0;
  form.scrollIntoView({ block: "start" });
  form.elements.prompt.focus();
  estimate();
}

/* A video that begins where the chosen one ends. */
function goOn(v) {
  form.elements.extend.value = v.id;
  if (!form.elements.prompt.value.trim()) form.elements.prompt.value = v.prompt;
  $("long").open = true;
  form.scrollIntoView({ block: "start" });
  form.elements.prompt.focus();
  estimate();
}

function picture() {
  const file = $("image").files[0], img = $("picture").querySelector("img");
  if (img.src) URL.revokeObjectURL(img.src);
  img.removeAttribute("src");
  if (file) img.src = URL.createObjectURL(file);
  $("picture").hidden = !file;
}
$("image").onchange = picture;
$("no-picture").onclick = () => { $("image").value = ""; picture(); $("image").focus(); };

form.onsubmit = async event => {
  event.preventDefault();
  $("form-error").textContent = "";
  const file = $("image").files[0];
  let body = settings();
  if (file) {
    const data = new FormData();
    for (const [k, v] of Object.entries(body)) for (const one of [v].flat()) data.append(k, String(one));
    data.append("input_reference", file);
    body = data;
  }
  $("submit").disabled = true;
  try {
    const v = await call("POST", "/v1/videos", body);
    choose(v.id);
    if (matchMedia("(max-width: 800px)").matches) $("view").scrollIntoView();
  } catch (e) { $("form-error").textContent = e.message; }
  $("submit").disabled = false;
};

/* What the job would take, a moment after the last key. */
let thinking = 0, asked = 0;
function estimate() {
  clearTimeout(thinking);
  thinking = setTimeout(async () => {
    const mine = ++asked;
    let text = "";
    try {
      if (form.elements.prompt.value.trim() && form.checkValidity() && !$("image").files.length) {
        const p = await call("POST", "/v1/plan", settings());
        text = `${plural(p.num_frames, "frame")} of ${p.width}x${p.height}: about ${seconds(p.seconds)} and ${gigabytes(p.needed_bytes)} on one rank of the coordinator's machine`;
      }
    } catch (e) { text = e.status === 400 ? e.message : ""; }
    if (mine === asked) $("estimate").textContent = text;
  }, 500);
}
form.addEventListener("input", estimate);

/* What the model does by itself stands in the empty fields. */
async function fillDefaults() {
  const p = await call("POST", "/v1/plan", { prompt: "x" }).catch(() => null);
  for (const name of ["num_frames", "fps", "width", "height"]) form.elements[name].placeholder = p ? p[name] : "the model's";
}
