"use strict";
/* What every part needs: elements, requests with the key, texts. Others' words are only ever set as text. */
const $ = id => document.getElementById(id);
const OVER = ["completed", "failed", "cancelled"];

function make(tag, name, ...inside) {
  const e = document.createElement(tag);
  if (name) e.className = name;
  e.append(...inside);
  return e;
}
const words = state => ({ in_progress: "running", queued: "waiting" })[state] || state;
const plural = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
function seconds(s) {
  return s < 90 ? `${Math.max(1, Math.round(s))} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
}
/* When a job that waits begins; "": nobody knows. */
function begins(v) {
  const wait = v.status === "queued" ? v.cvx.wait_seconds : null;
  return wait === null ? "" : wait < 1 ? "begins now" : `begins in about ${seconds(wait)}`;
}
const gigabytes = b => b < 1e9 ? `${Math.round(b / 1e6)} MB` : `${(b / 1e9).toFixed(1)} GB`;

const headers = more => sessionStorage.apiKey ? { ...more, Authorization: "Bearer " + sessionStorage.apiKey } : { ...more };

class Refusal extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

/* The answer of a request that went well; a Refusal with what the service says else. 0: it did not answer. */
async function ask(method, path, body) {
  const form = body instanceof FormData;
  let answer;
  try {
    answer = await fetch(path, { method, headers: headers(body && !form ? { "Content-Type": "application/json" } : {}),
      body: form ? body : body && JSON.stringify(body) });
  } catch (e) { throw new Refusal(0, "The service does not answer."); }
  if (answer.ok) return answer;
  let message = `${answer.status} ${answer.statusText}`;
  try { message = (await answer.json()).error.message; } catch (e) { /* no JSON: the status says it */ }
  if (answer.status === 401) askKey(sessionStorage.apiKey ? "This key is not one of the service's." : "This service wants a key.");
  throw new Refusal(answer.status, message);
}
const call = async (method, path, body) => (await ask(method, path, body)).json();

function askKey(why) {
  $("keys").hidden = false;
  $("key-button").setAttribute("aria-expanded", "true");
  $("key-text").textContent = why;
}
$("key-button").onclick = () => {
  const open = $("keys").hidden;
  $("keys").hidden = !open;
  $("key-button").setAttribute("aria-expanded", String(open));
  $("key-text").textContent = "It is kept until this tab is closed.";
  $("key").value = sessionStorage.apiKey || "";
  if (open) $("key").focus();
};
$("keys").onsubmit = event => {
  event.preventDefault();
  sessionStorage.apiKey = $("key").value;
  $("keys").hidden = true;
  $("key-button").setAttribute("aria-expanded", "false");
  start();
};

/* Above everything: what keeps the page from telling the news. */
function notice(e) {
  const text = !e || e.status === 401 ? "" : e.status === 0 || e.status >= 500 ? `${e.message.replace(/[.]?$/, ".")} Trying again; running jobs go on.` : e.message;
  if ($("notice").textContent !== text) $("notice").textContent = text;
  $("notice").hidden = !text;
}
