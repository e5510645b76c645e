"use strict";
/* The dashboard. Its concepts:

   feeds     what has been fetched, each with its path and how often it is asked for
   VIEWS     what can be seen: a function that builds a view once and returns one that brings it up to date
   ACTIONS   what can be done: an operation of the API, and what is said about it
   act       asks for confirmation, does an action, says what came of it

   Whatever comes from the server is text: it becomes textContent or an
   attribute's value, never HTML. Nodes are kept and brought up to date, so that
   focus, selection and opened details stay where they are. */

const API = "/api/v1";
const PAGE_ROWS = 50;
const HOUR_S = 3600;
const MOST_FUNCTIONS = 20000;

// -- text ---------------------------------------------------------------------------

// What would break a line, or be read in another order than it is written.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

const hex = (code, digits) => code.toString(16).padStart(digits, "0");

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
}

/* Bytes of the API, text or {base64}, as a person may see them. */
function lines(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "object") {
    if (typeof value.base64 !== "string") return JSON.stringify(value);
    return Array.from(bytesOf(value.base64), (byte) => (byte < 127 && byte > 31) || byte === 10 ? String.fromCharCode(byte) : "\\x" + hex(byte, 2)).join("");
  }
  return String(value).replace(UNSEEN, (each) => (each.charCodeAt(0) < 256 ? "\\x" + hex(each.charCodeAt(0), 2) : "\\u" + hex(each.charCodeAt(0), 4)));
}

const shown = (value) => lines(value).replace(/\n/g, "\\n").replace(/\t/g, "\\t");

const short = (text, most = 60) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

/* Of bytes: what tells them from others, and how they stand in a URL. */
const keyOf = (name) => (typeof name === "string" ? "t" + name : "b" + name.base64);
const percent = (name) => (typeof name === "string" ? encodeURIComponent(name) : Array.from(bytesOf(name.base64), (byte) => "%" + hex(byte, 2)).join(""));

const count = (value) => Number(value).toLocaleString("en-US");

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.0005) return "0 s";
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  if (seconds < 10) return seconds.toFixed(1) + " s";
  const whole = Math.round(seconds);
  if (whole < 60) return whole + " s";
  if (whole < 3600) return Math.floor(whole / 60) + " m " + (whole % 60) + " s";
  if (whole < 86400) return Math.floor(whole / 3600) + " h " + Math.floor((whole % 3600) / 60) + " m";
  return Math.floor(whole / 86400) + " d " + Math.floor((whole % 86400) / 3600) + " h";
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (bytes >= 1024 && at < 4) (bytes /= 1024), at++;
  return (at && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)) + " " + units[at];
}

function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "–";
  return (perSecond === 0 ? "0" : perSecond < 10 ? Number(perSecond.toFixed(2)) : count(Math.round(perSecond))) + "/s";
}

const clock = (epochS) => new Date(epochS * 1000).toLocaleTimeString("en-GB");
const plural = (number, word) => count(number) + " " + word + (number === 1 ? "" : "s");
const lastLine = (text) => text.split("\n").map((each) => each.trim()).filter(Boolean).pop() || "";

// -- elements -----------------------------------------------------------------------

function make(node, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (name === "on") for (const [kind, listener] of Object.entries(value)) node.addEventListener(kind, listener);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((each) => each !== null && each !== undefined));
  return node;
}

const h = (tag, properties, ...children) => make(document.createElement(tag), properties, children);
const s = (tag, properties, ...children) => make(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
const byId = (id) => document.getElementById(id);

/* Change the text, or an attribute, of a node only where it is another one. */
function put(node, text) {
  if (node.said !== text) node.textContent = node.said = text;
  return node;
}

function set(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
  return node;
}

/* Let `parent` have one node for each of `items`, in their order; those that stay are kept. */
function keyed(parent, items, key, create, update) {
  const had = parent.nodes || new Map();
  const nodes = (parent.nodes = new Map());
  for (const item of items) nodes.set(key(item), item);
  for (const [name, node] of had) if (!nodes.has(name)) node.remove();
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  let place = parent.firstChild;
  for (const [name, item] of nodes) {
    const node = had.get(name) || create(item);
    node.item = item;
    update(node, item);
    nodes.set(name, node);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
  if (focused && focused.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
}

// -- the API ------------------------------------------------------------------------

class Trouble extends Error {
  /* `status` 0: there was no answer. */
  constructor(status, text, data) {
    super(text);
    this.status = status;
    this.data = data;
  }
}

const server = { lostAt: null, skewS: 0, started: null };

const storage = {
  get: (store, name) => { try { return window[store].getItem(name) || ""; } catch (_) { return ""; } },
  set: (store, name, value) => { try { value ? window[store].setItem(name, value) : window[store].removeItem(name); } catch (_) { /* It is for this page only, then. */ } },
};
let token = storage.get("sessionStorage", "gearmand.token");

const nowS = () => Date.now() / 1000 + server.skewS;

async function call(method, path, fields, timeoutS = 15) {
  const headers = {};
  if (token) headers.Authorization = "Bearer " + token;
  if (fields) headers["Content-Type"] = "application/json";
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), timeoutS * 1000);
  let answer, text;
  try {
    answer = await fetch(path, { method, headers, body: fields ? JSON.stringify(fields) : undefined, signal: stop.signal, cache: "no-store", redirect: "error" });
    text = await answer.text();
  } catch (_) {
    if (server.lostAt === null && (!stop.signal.aborted || method === "GET")) server.lostAt = Date.now();
    throw new Trouble(0, stop.signal.aborted ? "The server has not answered for " + timeoutS + " s." : "The server does not answer.");
  } finally {
    clearTimeout(timer);
  }
  server.lostAt = null;
  const date = Date.parse(answer.headers.get("Date"));
  if (date) server.skewS = (date - Date.now()) / 1000 + 0.5;
  let found;
  try {
    found = JSON.parse(text);
  } catch (_) {
    throw new Trouble(answer.status, "The answer is no JSON: " + short(text, 200));
  }
  if (found.error) {
    if (answer.status === 401) useToken("", "The token is not in the access list, and has been forgotten.");
    throw new Trouble(answer.status, found.error.text, found.error.data);
  }
  return found;
}

function useToken(value, says) {
  if (value === token) return;
  token = value;
  storage.set("sessionStorage", "gearmand.token", value);
  for (const each of feeds.values()) restart(each);
  notice(says);
}

// -- feeds --------------------------------------------------------------------------

const feeds = new Map();

/* `path`: a function; null where there is nothing to ask for now. `take`: makes of an answer and the data so far the new data. */
function feed(name, everyS, path, take = (answer) => answer) {
  feeds.set(name, { name, everyS, path, take, data: null, error: null, version: 0, dueAt: 0, busy: null });
}

const data = (name) => feeds.get(name).data;

function restart(each) {
  Object.assign(each, { data: null, error: null, dueAt: 0, busy: null, version: each.version + 1 });
}

const hasten = () => feeds.forEach((each) => { each.dueAt = Math.min(each.dueAt, performance.now() + (each.everyS > 10 ? 1000 : 100)); });

async function pull(each, path) {
  const began = performance.now();
  const mine = (each.busy = {});
  let pauseS = each.everyS;
  try {
    const answer = await call("GET", path);
    if (each.busy === mine) {
      each.data = each.take(answer, each.data);
      each.error = null;
      each.version++;
    }
  } catch (error) {
    if (!(error instanceof Trouble)) console.error(error);
    if (each.busy === mine && error.status !== 0) each.error = error;
    // Whoever is refused and asks on fills the server's log.
    if (error.status === 403) pauseS = 300;
  }
  if (each.busy === mine) {
    each.busy = null;
    // What costs the server much is asked for less often.
    each.dueAt = performance.now() + Math.max(pauseS * 1000, 20 * (performance.now() - began));
  }
  paint();
}

function tick() {
  if (document.hidden) return;
  const wanted = server.lostAt === null ? [...ALWAYS, ...view.feeds] : ["ready"];
  let room = 3 - wanted.filter((name) => feeds.get(name).busy).length;
  for (const name of wanted) {
    const each = feeds.get(name);
    const path = room > 0 && !each.busy && each.dueAt <= performance.now() ? each.path() : null;
    if (path !== null) room--, pull(each, path);
  }
  lookForHistory();
  if (server.lostAt !== null) paint();
}

const ALWAYS = ["ready", "operations", "server", "functions", "failures"];

feed("ready", 2, () => "/readyz");
feed("operations", 60, () => API, (answer) => answer.operations);
feed("server", 2, () => API + "/server", takeServer);
feed("functions", 2, () => API + "/functions?limit=" + MOST_FUNCTIONS, takeFunctions);
feed("failures", 5, () => API + "/failures", (answer) => named(answer.failures));
feed("workers", 3, () => API + "/workers?limit=5000", (answer) => rowsOf(answer.workers, answer.truncated));
feed("clients", 3, () => API + "/clients?limit=5000", (answer) => rowsOf(answer.clients, answer.truncated));
feed("jobs", 4, () => API + "/jobs?limit=1000", takeJobs);
feed("history", 15, () => API + "/history" + since(data("history"), "?"), (answer, before) => longer(before, answer, answer));
feed("histories", 15, () => API + "/histories?" + (data("histories") ? "limit=2000" + since(data("histories"), "&") : "limit=100"), takeHistories);

// Of the function that is open.
const ofOpen = (path) => () => (view.id ? path(view.id) : null);
feed("function", 2, ofOpen((id) => isDots(id) ? null : API + "/functions/" + id));
feed("function.history", 15, ofOpen((id) => API + "/history?function=" + id + since(data("function.history"), "&")), (answer, before) => longer(before, answer, answer));
feed("function.jobs", 3, ofOpen((id) => API + "/jobs?limit=1000&function=" + id), takeJobs);
feed("function.failures", 5, ofOpen((id) => API + "/failures?function=" + id), (answer) => named(answer.failures));
feed("function.buried", 5, ofOpen((id) => has("GET", "/functions/{function}/buried") ? API + "/functions/" + id + "/buried?count=1000" : null), (answer) => rowsOf(answer.jobs, answer.jobs.length === 1000));

// A browser takes these for steps in the path.
const isDots = (id) => id === "." || id === "..";

function takeServer(answer) {
  const mark = answer.pid + " " + answer.started_s;
  if (server.started !== null && server.started !== mark) {
    // It counts from zero again.
    marks.clear();
    ["history", "histories", "function.history"].forEach((name) => restart(feeds.get(name)));
  }
  server.started = mark;
  return answer;
}

function rowsOf(rows, truncated) {
  rows.truncated = Boolean(truncated);
  return rows;
}

function named(rows) {
  for (const each of rows) each.name = shown(each.function);
  return rows;
}

function takeJobs(answer) {
  return named(rowsOf(answer.jobs, answer.truncated));
}

/* Counts of each function at two moments: what was half a minute to a minute ago, from which rates are told. */
const marks = new Map();
const COUNTED = [
  (each) => each.submitted, (each) => each.completed, (each) => each.failed + each.exceptions,
  (each) => each.waits.count, (each) => each.waits.sum_s, (each) => each.runs.count, (each) => each.runs.sum_s,
];

function takeFunctions(answer) {
  const now = performance.now() / 1000;
  const rows = rowsOf(answer.functions, answer.truncated);
  if (marks.size > 2 * rows.length + 1000) marks.clear();
  rows.byKey = new Map();
  for (const row of rows) {
    row.key = keyOf(row.function);
    row.name = shown(row.function);
    row.waiting = row.queued.high + row.queued.normal + row.queued.low;
    const counts = COUNTED.map((each) => each(row));
    let mark = marks.get(row.key);
    if (!mark || counts.some((value, at) => value < mark.old[at])) marks.set(row.key, (mark = { old: counts, oldAt: now, next: counts, nextAt: now }));
    if (now - mark.nextAt > 30) Object.assign(mark, { old: mark.next, oldAt: mark.nextAt, next: counts, nextAt: now });
    const [submitted, completed, failed, waits, waitS, runs, runS] = counts.map((value, at) => value - mark.old[at]);
    const tookS = now - mark.oldAt;
    row.perS = tookS > 0.5 ? { submitted: submitted / tookS, completed: completed / tookS, failed: failed / tookS } : null;
    row.lately = { completed, failed };
    row.wait_s = waits ? waitS / waits : null;
    row.run_s = runs ? runS / runs : null;
    rows.byKey.set(row.key, row);
  }
  return rows;
}

// -- the last hour --------------------------------------------------------------------

const COLUMNS = ["queued", "running", "submitted", "completed", "failed", "wait_s", "run_s"];
const POINTS = 240;

const since = (before, mark) => (before && before.times.length ? mark + "since=" + before.times[before.times.length - 1] : "");

/* A history with what has come since; `row`: its columns, where it has been busy. */
function longer(before, head, row) {
  const after = { step_s: head.step_s, times: before ? before.times : [] };
  const last = after.times.length ? after.times[after.times.length - 1] : 0;
  const from = head.times.findIndex((time) => time > last);
  const more = from < 0 ? [] : head.times.slice(from);
  after.times = [...after.times, ...more].slice(-POINTS);
  for (const name of COLUMNS) {
    const values = row ? row[name].slice(from < 0 ? head.times.length : from) : more.map(() => (name.endsWith("_s") ? null : 0));
    after[name] = [...(before ? before[name] : []), ...values].slice(-POINTS);
  }
  return after;
}

/* By function. Only the functions that were busy last are asked for at once, the others when they are seen. */
function takeHistories(answer, before) {
  const found = new Map(answer.functions.map((row) => [keyOf(row.function), row]));
  const last = answer.times[answer.times.length - 1];
  const isGap = before && answer.times.length > 20;
  const all = new Map();
  for (const [key, each] of before && !isGap ? before.all : []) all.set(key, longer(each, answer, found.get(key)));
  if (!before) for (const [key, row] of found) all.set(key, longer(null, answer, row));
  return { times: last === undefined ? (before ? before.times : []) : [last], all };
}

const seen = new Map();
let looking = 0;

async function lookForHistory() {
  const histories = data("histories");
  if (!histories || server.lostAt !== null) return;
  for (const [key, row] of seen) {
    if (looking >= 2) return;
    seen.delete(key);
    if (histories.all.has(key)) continue;
    looking++;
    call("GET", API + "/history?function=" + row.id)
      .then((answer) => { const now = data("histories"); if (now) now.all.set(key, longer(null, answer, answer)); })
      .catch(() => {})
      .finally(() => { looking--; paint(); });
  }
}

// -- what is wrong --------------------------------------------------------------------

const BAD = 2, WARN = 1;
const RECENT_S = 300;
const LONG_WAIT_S = 300;
const STUCK_S = 30;

/* Each rule looks at one function, and at its failures of the last minutes: null, or how bad, in a word, and in a sentence. */
const RULES = [
  (each) => each.paused && each.waiting ? [WARN, "paused", plural(each.waiting, "job") + (each.waiting === 1 ? " waits" : " wait") + " until it is resumed"] : null,
  (each) => each.waiting && !each.workers && !each.paused ? [BAD, "no worker", plural(each.waiting, "job") + (each.waiting === 1 ? " waits" : " wait") + ", and nobody can do " + (each.waiting === 1 ? "it" : "them") + since_(each)] : null,
  (each) => {
    const full = Object.keys(each.limits).filter((priority) => each.limits[priority] && each.waiting + each.running + each.scheduled >= each.limits[priority]);
    return full.length ? [BAD, "full", "new jobs of " + full.join(", ") + " priority are refused: the limit of " + count(each.limits[full[0]]) + " is reached"] : null;
  },
  (each) => each.waiting && each.workers && !each.running && each.oldest_s > STUCK_S && !each.paused && !bounds(each) ? [BAD, "stuck", plural(each.waiting, "job") + " waiting, and none of " + plural(each.workers, "worker") + " takes one" + since_(each)] : null,
  (each, failures) => {
    if (!failures) return null;
    const often = each.lately.failed > each.lately.completed || (!each.completed && failures.length > 2);
    const why = shown(lastLine(lines(failures[0].data)));
    return [often ? BAD : WARN, "failing", plural(failures.length, "failure") + " in 5 minutes" + (why ? "; the latest: " + short(why, 160) : "")];
  },
  (each) => each.waiting && (each.running || (each.workers && bounds(each))) && each.oldest_s > LONG_WAIT_S ? [WARN, "slow", plural(each.waiting, "job") + " waiting, the oldest for " + duration(each.oldest_s) + "; " + plural(each.workers, "worker") + ", " + count(each.running) + " running" + bounds(each)] : null,
  (each) => each.buried ? [WARN, "buried", plural(each.buried, "job") + " used up all attempts"] : null,
];
/* What of its policy keeps jobs from workers. */
const bounds = ({ policy }) => (policy && policy.most_running ? "; at most " + count(policy.most_running) + " run at once" : "") + (policy && policy.rate ? "; " + rate(policy.rate) + " are given out" : "");
const since_ = (each) => (each.oldest_s === null ? "" : "; the oldest for " + duration(each.oldest_s));

const found = { key: "", list: [], words: new Map() };

/* All troubles, the worst first; and for each function the words that stand for its own. */
function troubles() {
  const [functions, failures, workers] = ["functions", "failures", "workers"].map((name) => feeds.get(name));
  const key = [functions, failures, workers].map((each) => each.version).join();
  if (key === found.key) return found;
  const failed = new Map();
  for (const each of failures.data || []) {
    if (each.epoch_s < nowS() - RECENT_S) break;
    const name = keyOf(each.function);
    failed.has(name) ? failed.get(name).push(each) : failed.set(name, [each]);
  }
  const list = [];
  for (const each of functions.data || []) {
    for (const rule of RULES) {
      const said = rule(each, failed.get(each.key));
      if (said) list.push({ key: said[1] + each.key, level: said[0], word: said[1], text: said[2], of: each, weight: each.oldest_s || 0 });
    }
  }
  list.push(...longRuns(workers.data || [], functions.data));
  list.sort((a, b) => b.level - a.level || b.weight - a.weight || (a.key < b.key ? -1 : 1));
  const words = new Map();
  for (const each of list) words.has(each.of.key) ? words.get(each.of.key).push(each) : words.set(each.of.key, [each]);
  return Object.assign(found, { key, list, words });
}

/* For each function the job that runs far longer than its jobs do. */
function* longRuns(workers, functions) {
  const longest = new Map();
  for (const worker of workers) {
    for (const job of worker.running) {
      const key = keyOf(job.function);
      if (job.since_s > LONG_WAIT_S && !(longest.has(key) && longest.get(key).since_s >= job.since_s)) longest.set(key, job);
    }
  }
  for (const [key, job] of longest) {
    const of = functions && functions.byKey.get(key);
    const mean = of && of.runs.count ? of.runs.sum_s / of.runs.count : 0;
    if (!of || job.since_s < 20 * mean) continue;
    const text = lines(job.handle) + " runs for " + duration(job.since_s) + " at " + shown(job.worker) + (mean ? "; " + duration(mean) + " is usual" : "");
    yield { key: "long run" + key, level: WARN, word: "long run", text, of, weight: job.since_s };
  }
}

const LEVELS = { 2: "bad", 1: "warn" };
const wordNode = (each) => h("span", { class: "word " + LEVELS[each.level], title: each.text }, each.word);

// -- tables ---------------------------------------------------------------------------

// What has been searched for and sorted by outlives the view.
const memory = new Map();

/* A table that can be searched and sorted, a page at a time.
   `columns`: {name, title, text(row) or draw(cell, row), by(row), class, head}; `by` is what it is sorted by.
   Returns its node and `show(rows, feed)`. */
function table({ label, columns, key, empty, sort = null, down = true, find = null, filters = null, tools = [] }) {
  const now = memory.get(label) || { search: "", sort, down, page: 0, filter: 0 };
  memory.set(label, now);
  let rows = [], held = [], touchedAt = 0, source = null;
  const again = () => { held = []; now.page = 0; update(); };
  const search = find && h("input", { type: "search", class: "field", placeholder: "Search", "aria-label": "Search " + label, on: { input: () => { now.search = search.value; again(); } } });
  if (search) search.value = now.search;
  const choice = filters && h("select", { "aria-label": "Show which " + label, on: { change: () => { now.filter = choice.selectedIndex; again(); } } }, ...filters.map((each) => h("option", {}, each[0])));
  if (choice) choice.selectedIndex = now.filter;
  const heads = columns.map((column) => {
    const press = column.by && h("button", { type: "button", on: { click: () => {
      now.down = now.sort === column.name ? !now.down : column.class !== "name" && column.class !== "t";
      now.sort = column.name;
      again();
    } } }, column.title);
    return h("th", { scope: "col", class: column.class }, press || (column.title || h("span", { class: "unseen" }, column.hidden || "Actions")));
  });
  const body = h("tbody", { on: Object.fromEntries(["pointermove", "focusin", "keydown"].map((kind) => [kind, () => { touchedAt = performance.now(); }])) });
  const grid = h("table", {}, h("caption", { class: "unseen" }, label), h("thead", {}, h("tr", {}, ...heads)), body);
  const scroll = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, grid);
  const says = h("p", { class: "says" });
  const total = h("span", { class: "soft" });
  const turn = (text, by) => h("button", { type: "button", on: { click: () => { now.page += by; held = []; update(); } } }, text);
  const [back, on, place] = [turn("Previous", -1), turn("Next", 1), h("span", { "aria-live": "polite" })];
  const pager = h("div", { class: "pager" }, place, back, on);
  const title = h("h2", {}, label);
  const node = h("section", { "aria-label": label }, h("div", { class: "head" }, title, total, h("div", { class: "find" }, ...tools, choice, search)), says, scroll, pager);

  function create() {
    const line = h("tr");
    columns.forEach((column, at) => line.append(h(column.head ? "th" : "td", { class: column.class, scope: column.head ? "row" : null })));
    return line;
  }
  function fill(line, row) {
    columns.forEach((column, at) => (column.draw ? column.draw(line.children[at], row) : put(line.children[at], column.text(row))));
  }
  function chosen() {
    const words = now.search.toLowerCase().split(/\s+/).filter(Boolean);
    let some = filters && filters[now.filter][1] ? rows.filter(filters[now.filter][1]) : rows;
    if (words.length) some = some.filter((row) => { const text = find(row).toLowerCase(); return words.every((word) => text.includes(word)); });
    const column = columns.find((each) => each.name === now.sort);
    if (!column) return some;
    const sign = now.down ? -1 : 1;
    return some.map((row) => [column.by(row), row]).sort(([a, one], [b, other]) => {
      // What there is not goes last, whichever way.
      const gone = (a === null || a === undefined) - (b === null || b === undefined);
      return gone || sign * (a < b ? -1 : a > b ? 1 : 0) || (key(one) < key(other) ? -1 : 1);
    }).map(([, row]) => row);
  }
  function update() {
    const some = chosen();
    const pages = Math.max(1, Math.ceil(some.length / PAGE_ROWS));
    now.page = Math.max(0, Math.min(now.page, pages - 1));
    let page = some.slice(now.page * PAGE_ROWS, (now.page + 1) * PAGE_ROWS);
    // Under the pointer or the focus rows stay where they are.
    if (held.length && performance.now() - touchedAt < 5000) {
      const there = new Map(some.map((row) => [key(row), row]));
      const kept = held.filter((name) => there.has(name));
      if (kept.length === page.length) page = kept.map((name) => there.get(name));
    }
    held = page.map(key);
    keyed(body, page, key, create, fill);
    columns.forEach((column, at) => set(heads[at], "aria-sort", now.sort === column.name ? (now.down ? "descending" : "ascending") : null));
    put(total, some.length === rows.length ? (rows.length ? count(rows.length) : "") : count(some.length) + " of " + count(rows.length));
    pager.hidden = pages < 2;
    back.disabled = now.page === 0;
    on.disabled = now.page >= pages - 1;
    put(place, count(now.page * PAGE_ROWS + 1) + "–" + count(Math.min(some.length, (now.page + 1) * PAGE_ROWS)) + " of " + count(some.length));
    scroll.hidden = !some.length;
    const error = source && source.error;
    const said = error ? why(error) : source && source.data === null ? "Asking …" : !rows.length ? empty : !some.length ? "None of " + count(rows.length) + " fits." : rows.truncated ? "There are more; the first " + count(rows.length) + " are shown." : "";
    put(says, said);
    says.hidden = !said;
    says.className = "says" + (error ? " bad" : "");
  }
  function show(some, from) {
    source = from;
    rows = some || [];
    update();
  }
  return { node, show, title, search };
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
const why = (error) => sentence(error.message) + (error.status === 403 ? (token ? " Another token may: press Token." : " A token may: press Token.") : "");
const sortable = (text) => text.toLowerCase();

/* A cell that shows a number, and is quiet where it is zero. */
function number(cell, value, text = count(value)) {
  put(cell, text);
  cell.classList.toggle("zero", !value);
}

// -- charts ---------------------------------------------------------------------------

const SERIES = {
  depth: { title: "Depth", unit: count, of: [["queued", "queued"], ["running", "running"]], zero: "jobs", area: true },
  rates: { title: "Jobs a second", unit: rate, of: [["submitted", "submitted"], ["completed", "completed"], ["failed", "failed"]], perStep: true },
  times: { title: "Mean time", unit: duration, of: [["wait_s", "waited"], ["run_s", "ran"]] },
};

function ceiling(value) {
  if (!(value > 0)) return 1;
  const ten = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * ten).find((each) => each >= value * 0.999);
}

/* A path through those values that there are; one alone is a dot. */
function pathOf(values, x, y) {
  let path = "", isOn = false;
  values.forEach((value, at) => {
    if (value === null) { isOn = false; return; }
    path += (isOn ? "L" : "M") + x(at).toFixed(1) + " " + y(value).toFixed(1);
    if (!isOn && (at + 1 >= values.length || values[at + 1] === null)) path += "h.01";
    isOn = true;
  });
  return path;
}

/* What lies between such a path, without gaps, and the bottom. */
function areaOf(values, x, y, bottom) {
  const there = values.map((value, at) => (value === null ? null : at)).filter((at) => at !== null);
  if (there.length < 2) return "";
  const edge = there.map((at) => x(at).toFixed(1) + " " + y(values[at]).toFixed(1)).join("L");
  return "M" + x(there[0]).toFixed(1) + " " + bottom + "L" + edge + "L" + x(there[there.length - 1]).toFixed(1) + " " + bottom + "Z";
}

/* A chart of the last hour. Its values can be walked through by pointer and arrow keys, and stand in a table below. */
function chart(kind, of) {
  const { title, unit, of: series, perStep, area } = SERIES[kind];
  const svg = s("svg", { role: "img", tabindex: "0" });
  const legend = h("div", { class: "legend" });
  const rows = h("tbody");
  const details = h("details", { on: { toggle: () => tabulate() } }, h("summary", {}, "As a table"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title + " as a table" },
      h("table", {}, h("caption", { class: "unseen" }, title + ", " + of), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Time"), ...series.map(([, word]) => h("th", { scope: "col", class: "n" }, word)))), rows)));
  const node = h("figure", { class: "chart" }, h("figcaption", {}, h("h3", {}, title)), legend, svg, details);
  let history = null, drawn = "", at = null, values = {}, scale = null;
  const cursor = s("line", { class: "cursor", y1: 6, y2: 130, visibility: "hidden" });

  function tell() {
    const last = history && history.times.length ? history.times.length - 1 : null;
    const here = at === null ? last : Math.min(at, last);
    keyed(legend, [["time"], ...series], (each) => each[0], ([name]) => h("span", {}, ...(name === "time" ? [] : [h("i", { class: name }), h("span"), " ", h("b")])), (span, [name, word]) => {
      if (name === "time") return put(span, here === null ? "" : at === null ? "now" : clock(history.times[here]));
      put(span.children[1], word);
      put(span.children[2], here === null ? "–" : values[name][here] === null ? "–" : unit(values[name][here]));
    });
    cursor.setAttribute("visibility", at === null || !scale ? "hidden" : "visible");
    if (at !== null && scale) ["x1", "x2"].forEach((name) => cursor.setAttribute(name, scale(here)));
  }
  function point(event) {
    if (!scale) return;
    const x = event.clientX - svg.getBoundingClientRect().left;
    let best = 0;
    history.times.forEach((_, each) => { if (Math.abs(scale(each) - x) < Math.abs(scale(best) - x)) best = each; });
    at = best;
    tell();
  }
  function walk(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -POINTS, End: POINTS }[event.key];
    if (!by || !history || !history.times.length) return;
    event.preventDefault();
    const last = history.times.length - 1;
    at = Math.max(0, Math.min(last, (at === null ? last : at) + by));
    tell();
    set(svg, "aria-label", title + " at " + clock(history.times[at]) + ": " + series.map(([name, word]) => word + " " + (values[name][at] === null ? "none" : unit(values[name][at]))).join(", "));
  }
  const leave = () => { at = null; tell(); };
  [["pointermove", point], ["pointerdown", point], ["pointerleave", leave], ["keydown", walk], ["blur", leave]].forEach(([each, listener]) => svg.addEventListener(each, listener));

  function tabulate() {
    if (!details.open || !history) return;
    const lines = history.times.map((time, each) => ({ time, each })).reverse();
    keyed(rows, lines, (line) => line.time, () => h("tr", {}, h("td", { class: "t" }), ...series.map(() => h("td", { class: "n" }))), (line, { time, each }) => {
      put(line.children[0], clock(time));
      series.forEach(([name], column) => put(line.children[column + 1], values[name][each] === null ? "–" : unit(values[name][each])));
    });
  }
  function update(given) {
    const width = Math.round(svg.getBoundingClientRect().width);
    const last = given && given.times[given.times.length - 1];
    const mark = width + " " + last + " " + (given && given.times.length);
    if (mark === drawn || !width) return;
    drawn = mark;
    history = given;
    draw(width);
    tell();
    tabulate();
  }
  function draw(width) {
    const times = history ? history.times : [];
    const [left, right, top, bottom] = [46, 8, 8, 130];
    const till = times.length ? times[times.length - 1] : nowS();
    const spanS = Math.max(600, Math.min(HOUR_S, times.length ? till - times[0] : 0));
    // Where a clock was put back there are times beyond its end.
    const fits = (each) => times[each] >= till - spanS && times[each] <= till;
    for (const [name] of series) values[name] = history ? history[name].map((value, each) => (value === null || !fits(each) ? null : perStep ? value / history.step_s : value)) : [];
    const most = Math.max(0, ...series.flatMap(([name]) => values[name].filter((value) => value !== null)));
    const limit = ceiling(kind === "depth" ? Math.max(most, 4) : most);
    const xOf = (time) => left + (width - left - right) * (1 - (till - time) / spanS);
    const y = (value) => bottom - (bottom - top) * (value / limit);
    const x = (each) => xOf(times[each]);
    const parts = [];
    for (const part of [0, 0.5, 1]) {
      parts.push(s("line", { class: "grid", x1: left, x2: width - right, y1: y(part * limit), y2: y(part * limit) }));
      parts.push(s("text", { x: left - 6, y: y(part * limit) + 4, "text-anchor": "end" }, most || part === 0 ? unit(part * limit) : ""));
    }
    const stepS = spanS > 1800 ? (width > 420 ? 600 : 1200) : spanS > 900 ? 300 : 180;
    for (let back = 0; back <= spanS; back += stepS) {
      const anchor = back === 0 ? "end" : "middle";
      if (back === 0 || xOf(till - back) > left + 10) parts.push(s("text", { x: xOf(till - back), y: bottom + 15, "text-anchor": anchor }, back ? "−" + back / 60 + " min" : clock(till).slice(0, 5)));
    }
    if (times.length) {
      for (const [name] of series) {
        if (area && times.length > 1) parts.push(s("path", { class: "area " + name, d: areaOf(values[name], x, y, bottom) }));
        parts.push(s("path", { class: "line " + name, d: pathOf(values[name], x, y) }));
      }
    } else {
      parts.push(s("text", { x: (left + width) / 2, y: (top + bottom) / 2, "text-anchor": "middle" }, history ? "the first look comes within 15 seconds" : ""));
    }
    scale = times.length ? x : null;
    svg.replaceChildren(...parts, cursor);
    set(svg, "aria-label", title + " of " + of + ", the last hour. " + series.map(([name, word]) => {
      const there = values[name].filter((value) => value !== null);
      return word + ": " + (there.length ? "now " + (values[name][times.length - 1] === null ? "none" : unit(values[name][times.length - 1])) + ", most " + unit(Math.max(...there)) : "none");
    }).join("; ") + ". Arrow keys walk through it.");
  }
  return { node, update };
}

const charts = (of) => {
  const all = Object.keys(SERIES).map((kind) => chart(kind, of));
  return { node: h("div", { class: "charts" }, ...all.map((each) => each.node)), update: (history) => all.forEach((each) => each.update(history)) };
};

/* A cell with the last hour of a function: its depth, and where jobs failed. */
function spark(cell, row) {
  const histories = data("histories");
  if (!histories) return;
  const history = histories.all.get(row.key);
  if (!history && (row.submitted || row.waiting || row.running || row.scheduled)) seen.set(row.key, row);
  const mark = row.key + " " + (history ? history.times[history.times.length - 1] + " " + history.times.length : "");
  if (cell.drawn === mark) return;
  cell.drawn = mark;
  if (!history || !history.times.length) return cell.replaceChildren();
  const till = history.times[history.times.length - 1];
  const depth = history.queued.map((value, at) => (history.times[at] > till ? null : value + history.running[at]));
  const most = Math.max(...depth, 1);
  const x = (at) => 120 * (1 - Math.min(1, (till - history.times[at]) / HOUR_S));
  const y = (value) => 22 - 20 * (value / most);
  const line = pathOf(depth, x, y);
  const failed = history.failed.map((value, at) => (value ? "M" + x(at).toFixed(1) + " 23v-5" : "")).join("");
  const total = history.failed.reduce((sum, value) => sum + value, 0);
  const label = "Last hour: " + count(depth[depth.length - 1]) + " jobs now, most " + count(Math.max(...depth)) + ", " + plural(total, "failure");
  cell.replaceChildren(s("svg", { class: "spark", role: "img", "aria-label": label, viewBox: "0 0 120 24" },
    s("title", {}, label),
    s("path", { class: "area queued", d: areaOf(depth, x, y, 24) }), s("path", { class: "line queued", d: line }),
    s("path", { class: "line failed", d: failed })));
}

// -- actions --------------------------------------------------------------------------

/* `path`: of the operation; its braces are filled in from the subject, and its fields are those that the API lists, or `only`
   some of them. `title`, `says`, `done`: text about the subject. `shows`: what is to be read in the answer. */
const ACTIONS = {
  submit: { method: "POST", path: "/jobs", label: "Submit a job", press: "Submit", only: ["function", "workload", "unique", "priority", "background", "timeout_s"],
    title: (of) => (of.function ? "Submit a job of " + shown(of.function) : "Submit a job"), says: () => "It is a real job: a worker does it. Its result is shown here, unless it runs in the background.",
    preset: () => ({ timeout_s: 10 }), done: (of, answer) => "Submitted " + lines(answer.handle) + ("result" in answer ? ", which is complete." : ", in the background."),
    shows: (of, answer) => ("result" in answer ? [["Result", answer.result], ...(answer.data || []).map((each) => ["Data", each]), ...(answer.warnings || []).map((each) => ["Warning", each])] : null) },
  peek: { method: "GET", path: "/functions/{function}/peek", label: "Look at workloads", press: "Show", title: (of) => "Look at the workloads of " + shown(of.function), says: () => "Shows what the next jobs have been given. Nothing is changed.",
    preset: () => ({ count: 10 }), done: (of, answer) => "These are the next " + plural((answer.jobs || []).length, "job") + ".", shows: (of, answer) => (answer.jobs || []).map((each) => [lines(each.handle) + (each.priority ? ", " + each.priority : ""), each.workload]) },
  pause: { method: "POST", path: "/functions/{function}/pause", label: "Pause", title: (of) => "Pause " + shown(of.function) + "?", says: (of) => "No job of it is given to a worker until it is resumed. " + running(of) + " New jobs are accepted and wait.",
    hide: (of) => of.paused, done: (of) => "Paused " + shown(of.function) + "." },
  resume: { method: "POST", path: "/functions/{function}/resume", label: "Resume", title: (of) => "Resume " + shown(of.function) + "?", says: (of) => plural(of.waiting, "job") + (of.waiting === 1 ? " waits" : " wait") + " and may go to workers at once.",
    hide: (of) => !of.paused, done: (of) => "Resumed " + shown(of.function) + "." },
  limits: { method: "PUT", path: "/functions/{function}/limits", label: "Limits", press: "Set the limits", title: (of) => "Limits of " + shown(of.function), says: (of) => "New jobs of a priority are refused while the function has as many jobs as its limit; now it has " + count(of.waiting + of.running + (of.scheduled || 0)) + ". An empty field is no limit. Jobs that are there stay.",
    preset: (of) => of.limits, done: (of, answer) => "Limits of " + shown(of.function) + ": " + settings(answer.limits) + "." },
  policy: { method: "PUT", path: "/functions/{function}/policy", label: "Policy", press: "Set the policy", title: (of) => "Policy of " + shown(of.function), says: () => "How its jobs are tried, kept and given out. An empty field is none of its own.",
    preset: (of) => of.policy || {}, done: (of, answer) => "Policy of " + shown(of.function) + ": " + settings(answer.policy) + "." },
  kick: { method: "POST", path: "/functions/{function}/kick", label: "Kick", press: "Kick", title: (of) => "Kick buried jobs of " + shown(of.function) + "?", says: (of) => buried(of) + " Kicked jobs are queued again.",
    hide: (of) => !of.buried, done: (of, answer) => "Kicked " + plural(answer.kicked, "job") + " of " + shown(of.function) + "." },
  discard: { method: "POST", path: "/functions/{function}/discard", label: "Discard buried", danger: true, title: (of) => "Discard the buried jobs of " + shown(of.function) + "?", says: (of) => buried(of) + " They are gone then, and nothing brings them back.",
    hide: (of) => !of.buried, done: (of, answer) => "Discarded " + plural(answer.discarded, "job") + " of " + shown(of.function) + "." },
  purge: { method: "POST", path: "/functions/{function}/purge", label: "Purge", danger: true, title: (of) => "Purge " + shown(of.function) + "?", says: (of) => plural(of.waiting, "job") + (of.waiting === 1 ? " waits" : " wait") + " in its queue. Purged jobs are gone, and nothing brings them back; whoever waits for one hears that it failed. " + running(of),
    done: (of, answer) => "Purged " + plural(answer.purged, "job") + " of " + shown(of.function) + "." },
  drop: { method: "DELETE", path: "/functions/{function}", label: "Drop", danger: true, title: (of) => "Drop " + shown(of.function) + "?", says: (of) => (of.waiting + of.running + of.workers ? "It has jobs or workers, and the server will refuse this. " : "") + "The server forgets the function and its counts. The next job or worker makes it anew.",
    done: (of) => "Dropped " + shown(of.function) + "." },
  cancel: { method: "DELETE", path: "/jobs/{handle}", label: "Cancel", press: "Cancel the job", danger: true, title: (of) => "Cancel job " + lines(of.handle) + "?",
    says: (of) => "It is a job of " + shown(of.function) + (of.state === "running" ? ", and it runs: its worker is not told, but its result will be dropped." : ", and it is " + of.state + ": it is taken off the books.") + " Whoever waits for it hears that it failed.", done: (of) => "Cancelled job " + lines(of.handle) + " of " + shown(of.function) + "." },
  priority: { method: "POST", path: "/jobs/{handle}/priority", label: "Priority", press: "Change the priority", title: (of) => "Priority of job " + lines(of.handle), says: (of) => "It is " + of.priority + " now.", hide: (of) => of.state !== "queued",
    preset: (of) => ({ priority: of.priority }), done: (of, answer, given) => "Job " + lines(of.handle) + " has " + given.priority + " priority." },
  drain: { method: "POST", path: "/drain", label: "Drain", danger: true, title: () => "Drain the server?", says: () => "It takes no new jobs from now on: clients are refused. " + load() + " It stops when its work is done, and this page ends with it.",
    done: () => "The server takes no new jobs." },
  stop: { method: "POST", path: "/shutdown", label: "Stop", press: "Stop the server", danger: true, title: () => "Stop the server?", says: () => "Gracefully: it takes no new jobs, and ends when its work is done. " + load() + " This page ends with it.",
    preset: () => ({ graceful: true }), done: (of, answer) => "The server stops " + shown(answer.stopping) + "." },
};

const running = (of) => (of.running ? "What runs now (" + count(of.running) + ") goes on." : "Nothing of it runs now.");
const buried = (of) => plural(of.buried, "job") + (of.buried === 1 ? " is" : " are") + " buried.";
const load = () => { const now = data("server"); return now ? "Now " + plural(now.running, "job") + (now.running === 1 ? " runs" : " run") + " and " + count(now.jobs - now.running) + " wait." : ""; };
const settings = (of) => Object.entries(of).filter(([name]) => name !== "paused").map(([name, value]) => name.replace(/_s$/, "").replace(/_/g, " ") + " " + (value === null ? "none" : value)).join(", ");

const operationOf = (method, path) => (data("operations") || []).find((each) => each.method === method && each.path === API + path);
const has = (method, path) => Boolean(operationOf(method, path));

function refusal(action, subject) {
  const operation = operationOf(action.method, action.path);
  if (server.lostAt !== null) return "The server does not answer.";
  if (!operation) return "This server cannot do that.";
  if (action.path.includes("{function}") && isDots(subject.function)) return "A browser cannot ask for a function of that name.";
  return operation.refused || null;
}

/* A button for an action. `subjectOf` says of what, when it is pressed. */
function button(name, subjectOf) {
  const action = ACTIONS[name];
  const node = h("button", { type: "button", class: action.danger ? "danger" : null, "data-action": name, on: { click: () => {
    const why = refusal(action, subjectOf());
    why ? notice(action.label + ": " + sentence(why)) : act(action, subjectOf());
  } } }, action.label);
  node.refresh = () => {
    const subject = subjectOf();
    node.hidden = !subject || !has(action.method, action.path) || Boolean(action.hide && action.hide(subject));
    const why = subject && refusal(action, subject);
    set(node, "aria-disabled", why ? "true" : null);
    set(node, "title", why);
    set(node, "aria-label", subject && subject.handle ? action.label + " job " + lines(subject.handle) : null);
  };
  node.refresh();
  return node;
}

const toolbar = (names, subjectOf) => h("div", { class: "toolbar" }, ...names.map((name) => button(name, subjectOf)));

/* The form field of a field of the API, and `read` for its value. */
function fieldOf(field, given) {
  const title = field.name.replace(/_s$/, "").replace(/_/g, " ").replace(/^./, (each) => each.toUpperCase()) + (field.kind === "seconds" ? " (seconds)" : "");
  const words = field.kind.includes("|") ? field.kind.split("|") : null;
  const isNumber = ["number", "seconds", "amount"].includes(field.kind);
  const usual = given === undefined || given === null ? field.default : given;
  // As many as there are.
  const start = isNumber && usual >= 1e9 ? null : usual;
  const input = words ? h("select", {}, ...(field.required || field.default ? words : ["", ...words]).map((each) => h("option", { value: each, selected: each === start }, each || "all")))
    : field.kind === "flag" ? h("input", { type: "checkbox", checked: start === true })
    : field.kind === "bytes" && field.name === "workload" ? h("textarea", { class: "field mono", rows: 3 })
    : h("input", { class: "field", type: isNumber ? "number" : "text", step: field.kind === "number" ? null : "any", min: 0, value: start === null || start === undefined ? null : lines(start), autocomplete: "off" });
  input.name = field.name;
  input.required = field.required && field.kind !== "flag";
  const read = () => (field.kind === "flag" ? input.checked : input.value === "" ? null : isNumber ? Number(input.value) : input.value);
  const label = h("label", { class: field.kind === "flag" ? "flag" : null });
  label.append(...(field.kind === "flag" ? [input, h("span", {}, title)] : [h("span", {}, title), input]), h("small", {}, field.help));
  return { label, input, read, name: field.name };
}

/* Say in a dialog what an action will do, do it when that is confirmed, and say what came of it. */
function act(action, subject) {
  const operation = operationOf(action.method, action.path);
  const inPath = [...action.path.matchAll(/\{(\w+)\}/g)].map((each) => each[1]);
  const preset = action.preset ? action.preset(subject) : {};
  const fixed = action.only && subject.function ? { function: subject.function } : {};
  const fields = operation.fields
    .filter((each) => !inPath.includes(each.name) && !(each.name in fixed) && (!action.only || action.only.includes(each.name)))
    .map((each) => fieldOf(each, preset[each.name]));
  dialog(action.title(subject), [action.says(subject), operation.help], fields, { press: action.press || action.label, danger: action.danger }, async () => {
    const given = Object.fromEntries([...fields.map((each) => [each.name, each.read()]), ...Object.entries(fixed)].filter(([, value]) => value !== null || action.method === "PUT"));
    let path = API + action.path.replace(/\{(\w+)\}/g, (_, name) => percent(subject[name]));
    if (action.method === "GET") path += "?" + Object.entries(given).map(([name, value]) => name + "=" + encodeURIComponent(value)).join("&");
    try {
      const answer = await call(action.method, path, action.method === "GET" || !Object.keys(given).length ? undefined : given, 15 + (given.timeout_s || 0));
      const shows = action.shows && action.shows(subject, answer);
      const says = action.done ? action.done(subject, answer, given) : action.label + ": " + (summary(answer) || "done") + ".";
      if (!shows) notice(says);
      return shows ? { says, shows } : null;
    } catch (error) {
      if (error.status === 403 && !action.only) operation.refused = error.message;
      throw error;
    } finally {
      hasten();
      paint();
    }
  });
}

/* What an answer says, where nothing better is known. */
const summary = (answer) => Object.entries(answer).filter(([, value]) => typeof value !== "object" || (value && value.base64)).map(([name, value]) => name.replace(/_/g, " ") + " " + shown(value)).join(", ");

/* `does`: what happens on confirmation; returns what is to be read, or null where the dialog may close. */
function dialog(title, says, fields, { press, danger, back = "Back" }, does) {
  const node = byId("dialog");
  const alert = h("p", { class: "says bad", role: "alert", hidden: true });
  const confirm = h("button", { class: "main" + (danger ? " danger" : ""), type: "submit" }, press);
  const close = h("button", { type: "button", on: { click: () => node.close() } }, back);
  const read = h("div", { role: "status" });
  const form = h("form", { on: { submit: async (event) => {
    event.preventDefault();
    if (confirm.disabled) return;
    confirm.disabled = true;
    put(confirm, "Asking …");
    alert.hidden = true;
    try {
      const result = await does();
      if (form.isConnected) result ? show(result) : node.close();
    } catch (error) {
      if (!(error instanceof Trouble)) console.error(error);
      put(alert, "It was not done. " + sentence(error.message) + (error.data ? "\n" + lines(error.data) : ""));
      alert.hidden = false;
    }
    confirm.disabled = false;
    put(confirm, press);
    if (form.isConnected && node.open && (document.activeElement === document.body || document.activeElement === node)) (confirm.hidden ? close : confirm).focus();
  } } }, ...fields.map((each) => each.label), read, alert, h("div", { class: "buttons" }, close, confirm));
  function show({ says, shows }) {
    confirm.hidden = true;
    fields.forEach((each) => { each.label.hidden = true; });
    put(close, "Close");
    read.replaceChildren(h("p", {}, says), ...shows.map(([name, value]) => h("div", {}, h("h3", {}, name), h("pre", { tabindex: "0" }, lines(value) || "(empty)"))));
    close.focus();
  }
  node.replaceChildren(h("h2", { id: "dialog-title" }, title), ...says.map((each, at) => h("p", { class: at ? "soft" : null }, each)), form);
  node.showModal();
  (fields.length ? fields[0].input : danger ? close : confirm).focus();
}

function notice(text) {
  const node = h("div", { class: "notice" }, h("span", {}, text), h("button", { type: "button", "aria-label": "Dismiss", on: { click: () => node.remove() } }, "✕"));
  const all = byId("notices");
  all.append(node);
  while (all.children.length > 3) all.firstChild.remove();
  setTimeout(() => node.remove(), 20000);
}

function askForToken() {
  const field = fieldOf({ name: "token", kind: "name", help: "One of the access list. It is kept in this tab, and sent to this server alone.", required: true });
  field.input.type = "password";
  const says = [token ? "A token is in use. Another one takes its place." : "What you may see and do is said by the server's access list. A token may give you more."];
  dialog("Token", says, [field], { press: "Use this token" }, async () => {
    const value = field.read().trim();
    if (!/^[\x21-\x7e]+$/.test(value)) throw new Trouble(1, "A token has no blanks, and no letters beyond ASCII.");
    useToken(value, "The token is used from now on.");
    return null;
  });
  if (token) byId("dialog").querySelector(".buttons").prepend(h("button", { type: "button", on: { click: () => { byId("dialog").close(); useToken("", "The token is forgotten."); } } }, "Forget it"));
}

// -- columns that several tables have ----------------------------------------------------

function linkTo(cell, name, id) {
  const link = cell.firstChild || cell.appendChild(h("a"));
  set(link, "href", "#/function/" + id);
  put(link, short(name, 120) || "(empty)");
}

const functionColumn = (name = "function") => ({ name, title: "Function", class: "name", draw: (cell, row) => linkTo(cell, row.name, percent(row.function)), by: (row) => sortable(row.name) });

/* How far a job is, as its worker says. */
function progress(cell, job) {
  const [done, all] = [Number(job.numerator), Number(job.denominator)];
  const isKnown = all > 0 && done >= 0 && job.numerator !== null;
  const bar = cell.firstChild || cell.appendChild(h("progress", { max: 1 })), text = cell.children[1] || cell.appendChild(h("span"));
  bar.hidden = !isKnown;
  if (isKnown) {
    set(bar, "value", Math.min(1, done / all));
    set(bar, "aria-label", "Progress of job " + lines(job.handle));
  }
  put(text, isKnown ? Math.round((100 * done) / all) + " % (" + count(done) + "/" + count(all) + ")" : job.state === "running" ? "running" : "");
}

function said(cell, row) {
  const text = lines(row.data);
  if (cell.said === text) return;
  cell.said = text;
  const last = lastLine(text) || (row.kind === "failed" ? "its worker said no more than that it failed" : "");
  if (text.trim() === last && last.length < 100 || !text) cell.replaceChildren(h("span", { class: "mono" }, last));
  else cell.replaceChildren(h("details", {}, h("summary", { class: "mono" }, last), h("pre", { tabindex: "0" }, text)));
}

const jobTable = (label, isOfOne) => table({
  label, key: (row) => lines(row.handle), empty: "There are no unfinished jobs in memory.", sort: "since", find: (row) => [lines(row.handle), row.name, shown(row.unique), row.state, row.priority, shown(row.worker)].join(" "),
  filters: [["All", null], ["Running", (row) => row.state === "running"], ["Queued", (row) => row.state === "queued"], ["Scheduled", (row) => row.state === "scheduled"], ["Buried", (row) => row.state === "buried"], ["Tried again", (row) => row.retries > 0]],
  columns: [
    { name: "handle", title: "Handle", head: true, class: "name", text: (row) => lines(row.handle), by: (row) => lines(row.handle).replace(/\d+/g, (each) => each.padStart(12, "0")) },
    ...(isOfOne ? [] : [functionColumn()]),
    { name: "state", title: "State", class: "t", text: (row) => row.state, by: (row) => row.state },
    { name: "since", title: "For", class: "n", text: (row) => (row.state === "scheduled" ? "in " + duration(row.due_in_s) : duration(row.since_s)), by: (row) => (row.state === "scheduled" ? -row.due_in_s : row.since_s) },
    { name: "progress", title: "Progress", class: "t", draw: progress, by: (row) => (row.denominator ? row.numerator / row.denominator : null) },
    { name: "worker", title: "Worker", class: "t wide", text: (row) => shown(row.worker), by: (row) => shown(row.worker) },
    { name: "priority", title: "Priority", class: "t wide", text: (row) => row.priority, by: (row) => ["low", "normal", "high"].indexOf(row.priority) },
    { name: "unique", title: "Unique", class: "name wide", text: (row) => short(shown(row.unique), 64), by: (row) => shown(row.unique) },
    { name: "kind", title: "Kind", class: "t wide", text: (row) => (row.background ? (row.stored ? "background, stored" : "background") : plural(row.listeners, "client")), by: (row) => row.background },
    { name: "retries", title: "Retries", class: "n wide", draw: (cell, row) => number(cell, row.retries || 0), by: (row) => row.retries },
    { name: "bytes", title: "Workload", class: "n wide", text: (row) => size(row.workload_bytes), by: (row) => row.workload_bytes },
    { name: "act", title: "", class: "n", draw: (cell) => {
      if (!cell.firstChild) cell.append(toolbar(["priority", "cancel"], () => cell.parentNode && cell.parentNode.item));
      for (const each of cell.firstChild.children) each.refresh();
    } },
  ],
});

const failureTable = (label, isOfOne) => table({
  label, key: (row) => row.epoch_s + " " + lines(row.handle), empty: "No job has failed since the server's start.", sort: "time", find: (row) => [row.name, lines(row.handle), shown(row.unique), row.kind, lines(row.data)].join(" "),
  columns: [
    { name: "time", title: "When", class: "t", draw: (cell, row) => { put(cell, clock(row.epoch_s) + " · " + duration(Math.max(0, nowS() - row.epoch_s)) + " ago"); }, by: (row) => row.epoch_s },
    ...(isOfOne ? [] : [functionColumn()]),
    { name: "kind", title: "Kind", class: "t", text: (row) => row.kind, by: (row) => row.kind },
    { name: "data", title: "What the worker said", draw: said, by: (row) => lastLine(lines(row.data)) },
    { name: "handle", title: "Handle", class: "t wide", text: (row) => lines(row.handle), by: (row) => lines(row.handle) },
    { name: "unique", title: "Unique", class: "name wide", text: (row) => short(shown(row.unique), 64), by: (row) => shown(row.unique) },
  ],
});

const buriedTable = () => table({
  label: "Buried jobs", key: (row) => lines(row.handle), empty: "No job has used its attempts up.", sort: "time", find: (row) => [lines(row.handle), shown(row.unique), lines(row.why), lines(row.workload)].join(" "),
  columns: [
    { name: "time", title: "When", class: "t", text: (row) => clock(row.epoch_s) + " · " + duration(Math.max(0, nowS() - row.epoch_s)) + " ago", by: (row) => row.epoch_s },
    { name: "why", title: "Why", draw: (cell, row) => said(cell, { data: row.why, kind: "failed" }), by: (row) => lastLine(lines(row.why)) },
    { name: "handle", title: "Handle", class: "t", text: (row) => lines(row.handle), by: (row) => lines(row.handle) },
    { name: "unique", title: "Unique", class: "name wide", text: (row) => short(shown(row.unique), 64), by: (row) => shown(row.unique) },
    { name: "workload", title: "Workload", class: "name mono wide", text: (row) => short(shown(row.workload), 200), by: (row) => row.workload_bytes },
  ],
});

// -- views --------------------------------------------------------------------------------

function functionTable() {
  const words = (row) => troubles().words.get(row.key) || [];
  return table({
    label: "Functions", key: (row) => row.key, empty: "There are no functions yet: a worker or a job makes one.", sort: "queued", find: (row) => row.name,
    filters: [["All", null], ["With trouble", (row) => words(row).length > 0], ["With jobs", (row) => row.waiting + row.running + row.scheduled > 0], ["Without workers", (row) => !row.workers], ["Paused", (row) => row.paused]],
    columns: [
      { name: "function", title: "Function", head: true, class: "name", by: (row) => sortable(row.name), draw: (cell, row) => {
        if (!cell.firstChild) cell.append(h("span"), " ", h("span"));
        linkTo(cell.children[0], row.name, row.id);
        keyed(cell.children[1], [...words(row), ...(row.paused && !row.waiting ? [{ level: WARN, word: "paused", text: "No job of it is given out." }] : [])], (each) => each.level + each.word, wordNode, (node, each) => set(node, "title", each.text));
      } },
      { name: "queued", title: "Queued", class: "n", by: (row) => row.waiting, draw: (cell, row) => {
        if (!cell.firstChild) cell.append(h("span"), h("small"));
        number(cell.children[0], row.waiting);
        const parts = Object.entries({ ...row.queued, normal: row.queued.high || row.queued.low ? row.queued.normal : 0, scheduled: row.scheduled });
        put(cell.children[1], parts.filter(([, value]) => value).map(([name, value]) => count(value) + " " + name).join(" · "));
      } },
      { name: "running", title: "Running", class: "n", by: (row) => row.running, draw: (cell, row) => number(cell, row.running) },
      { name: "workers", title: "Workers", class: "n", by: (row) => row.workers, draw: (cell, row) => { number(cell, row.workers); cell.classList.toggle("alarm", !row.workers && row.waiting > 0); } },
      { name: "oldest", title: "Oldest", class: "n", by: (row) => row.oldest_s, draw: (cell, row) => { put(cell, duration(row.oldest_s)); cell.classList.toggle("zero", row.oldest_s === null); } },
      { name: "rate", title: "Done", class: "n wide", by: (row) => row.perS && row.perS.completed, draw: (cell, row) => number(cell, row.perS && row.perS.completed, rate(row.perS && row.perS.completed)) },
      { name: "wait", title: "Waited", class: "n wide", by: (row) => row.wait_s, draw: (cell, row) => number(cell, row.wait_s, duration(row.wait_s)) },
      { name: "run", title: "Ran", class: "n wide", by: (row) => row.run_s, draw: (cell, row) => number(cell, row.run_s, duration(row.run_s)) },
      { name: "failed", title: "Failed", class: "n wide", by: (row) => row.failed + row.exceptions, draw: (cell, row) => { number(cell, row.failed + row.exceptions); cell.classList.toggle("alarm", row.lately.failed > 0); } },
      { name: "hour", title: "Last hour", class: "wide", draw: spark },
    ],
  });
}

function buildOverview(main) {
  const list = h("ul", { class: "troubles" });
  const fine = h("p", { class: "fine" }, h("span", { "aria-hidden": "true" }, "✓"), h("span"));
  const more = h("button", { type: "button", on: { click: () => { all = !all; update(); } } });
  const number = h("span", { class: "soft" });
  const wrong = h("section", { "aria-label": "What is wrong" }, h("div", { class: "head" }, h("h2", {}, "What is wrong"), number), fine, list, more);
  const hour = charts("all functions");
  const last = h("section", { "aria-label": "The last hour" }, h("details", { open: window.innerWidth > 720, on: { toggle: () => paint() } }, h("summary", {}, h("h2", {}, "The last hour")), hour.node));
  const functions = functionTable();
  let all = false;
  main.append(wrong, last, functions.node);
  function update() {
    const { list: found } = troubles();
    const rows = data("functions");
    const some = all ? found.slice(0, 200) : firstOf(found);
    keyed(list, some, (each) => each.key, (each) => h("li", {}, h("span"), h("p", {}, h("b", {}, h("a")), " ", h("span"))), (node, each) => {
      put(node.children[0], each.word).className = "word " + LEVELS[each.level];
      const [name, text] = node.children[1].children;
      set(name.firstChild, "href", "#/function/" + each.of.id);
      put(name.firstChild, short(each.of.name, 80));
      put(text, each.text);
    });
    list.hidden = !found.length;
    fine.hidden = Boolean(found.length) || !rows;
    put(fine.children[1], rows ? "Nothing: every function with jobs has workers, and none has failed jobs lately." : "");
    put(number, feeds.get("functions").error ? why(feeds.get("functions").error) : rows ? "" : "Asking …");
    more.hidden = found.length <= firstOf(found).length;
    put(more, all ? (found.length > 200 ? "Fewer (200 of " + count(found.length) + " are shown)" : "Fewer") : "Show more of " + count(found.length));
    hour.update(data("history"));
    functions.show(rows, feeds.get("functions"));
  }
  return update;
}

/* A few of each kind, so that many of one do not hide another. */
function firstOf(list) {
  const many = new Map();
  return list.filter((each) => { many.set(each.word, (many.get(each.word) || 0) + 1); return many.get(each.word) <= 3; });
}

const FIGURES = [
  ["Queued", (each) => count(each.waiting)], ["of high / normal / low", (each) => [each.queued.high, each.queued.normal, each.queued.low].map(count).join(" / ")],
  ["Scheduled", (each) => count(each.scheduled)], ["Running", (each) => count(each.running)], ["Workers", (each) => count(each.workers)], ["Oldest waits", (each) => duration(each.oldest_s)],
  ["Done lately", (each) => rate(each.perS && each.perS.completed)], ["Failed lately", (each) => rate(each.perS && each.perS.failed)],
  ["Submitted", (each) => count(each.submitted)], ["Coalesced", (each) => count(each.coalesced)], ["Completed", (each) => count(each.completed)], ["Failed", (each) => count(each.failed)], ["Exceptions", (each) => count(each.exceptions)],
  ["Cancelled", (each) => count(each.cancelled)], ["Abandoned", (each) => count(each.abandoned)], ["Retried", (each) => count(each.retried)], ["Timed out", (each) => count(each.timed_out)],
  ...[["Expired", "expired"], ["Buried", "buried"], ["Ever buried", "ever_buried"]].map(([title, name]) => [title, (each) => (each[name] === undefined ? null : count(each[name]))]), ["Limits", (each) => (Object.values(each.limits).some((limit) => limit !== null) ? settings(each.limits) : "none")],
  ["Policy", (each) => (each.policy ? settings(Object.fromEntries(Object.entries(each.policy).filter(([, value]) => value !== null))) || "none" : null)],
];

function buildFunction(main) {
  const row = () => { const rows = data("functions"); return rows && rows.find((each) => each.id === view.id); };
  const title = h("h2", { tabindex: "-1" });
  const words = h("span"), says = h("p", { class: "says" });
  const bar = toolbar(["submit", "peek", "pause", "resume", "limits", "policy", "kick", "discard", "purge", "drop"], row);
  const numbers = h("dl", { class: "numbers" });
  const hour = charts("this function");
  const bounds = h("tbody");
  const histogram = h("section", { "aria-label": "How long" }, h("div", { class: "head" }, h("h2", {}, "How long jobs waited and ran"), h("span", { class: "soft" }, "since the server's start")),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "How long jobs waited and ran" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Up to"), h("th", { scope: "col", class: "n" }, "waited"), h("th", {}, h("span", { class: "unseen" }, "bar")), h("th", { scope: "col", class: "n" }, "ran"), h("th", {}, h("span", { class: "unseen" }, "bar")))), bounds)));
  const jobs = jobTable("Jobs", true), failures = failureTable("Failures", true);
  const buriedOnes = buriedTable();
  main.append(h("section", { "aria-label": "The function" }, h("div", { class: "head" }, h("a", { href: "#/" }, "← All functions"), title, words), bar, says, numbers),
    h("section", { "aria-label": "The last hour" }, h("div", { class: "head" }, h("h2", {}, "The last hour")), hour.node), jobs.node, buriedOnes.node, failures.node, histogram);
  return () => {
    const each = row(), rows = feeds.get("functions");
    put(title, each ? each.name : shown(decoded(view.id)));
    const found = each ? troubles().words.get(each.key) || [] : [];
    keyed(words, found, (one) => one.word + one.level, wordNode, (node, one) => set(node, "title", one.text));
    put(says, rows.error ? why(rows.error) : !rows.data ? "Asking …" : !each ? "The server does not know this function (any more)." : found.map((one) => one.word + ": " + one.text).join(". "));
    says.hidden = !says.textContent;
    for (const press of bar.children) press.refresh();
    keyed(numbers, each ? FIGURES.filter(([, text]) => text(each) !== null) : [], ([name]) => name, ([name]) => h("div", {}, h("dt", {}, name), h("dd")), (node, [, text]) => put(node.children[1], text(each)));
    hour.update(data("function.history"));
    jobs.show(data("function.jobs"), feeds.get("function.jobs"));
    failures.show(data("function.failures"), feeds.get("function.failures"));
    buriedOnes.node.hidden = !(data("function.buried") || []).length;
    buriedOnes.show(data("function.buried"), feeds.get("function.buried"));
    const one = data("function");
    histogram.hidden = !one || !(one.waits.count + one.runs.count);
    if (!histogram.hidden) histograms(bounds, one);
  };
}

function histograms(body, one) {
  const last = Math.max(...["waits", "runs"].map((name) => one[name].buckets.reduce((most, value, at) => (value ? at : most), 0)));
  const most = Math.max(1, ...one.waits.buckets, ...one.runs.buckets);
  const rows = one.waits.buckets.map((_, at) => at).filter((at) => at <= last);
  keyed(body, rows, (at) => at, () => h("tr", {}, h("th", { scope: "row", class: "t" }), h("td", { class: "n" }), h("td", { class: "gauge" }, h("div", { class: "measure" })), h("td", { class: "n" }), h("td", { class: "gauge" }, h("div", { class: "measure of-runs" }))), (line, at) => {
    put(line.children[0], at < one.bounds_s.length ? duration(one.bounds_s[at]) : "longer");
    ["waits", "runs"].forEach((name, side) => {
      const value = one[name].buckets[at];
      number(line.children[1 + 2 * side], value);
      line.children[2 + 2 * side].firstChild.style.width = value ? Math.max(1, (100 * value) / most) + "%" : "0";
    });
  });
}

/* The name of an id, as the API would write it. */
function decoded(id) {
  try {
    return decodeURIComponent(id);
  } catch (_) {
    return { base64: btoa(id.replace(/%([0-9A-Fa-f]{2})/g, (_, digits) => String.fromCharCode(parseInt(digits, 16)))) };
  }
}

const plainView = (name, build) => (main) => {
  const all = build();
  main.append(all.node);
  return () => all.show(data(name), feeds.get(name));
};

const namesOf = (row) => (row.names = row.names || row.functions.map(shown));

const workerTable = () => table({
  label: "Workers", key: (row) => shown(row.address), empty: "No worker is connected.", sort: "runs", find: (row) => [shown(row.address), shown(row.client_id), ...namesOf(row), ...row.running.map((job) => lines(job.handle))].join(" "),
  filters: [["All", null], ["Working", (row) => row.running.length > 0], ["Idle", (row) => !row.running.length]],
  columns: [
    { name: "worker", title: "Worker", head: true, class: "name", by: (row) => shown(row.address), draw: (cell, row) => {
      if (!cell.firstChild) cell.append(h("span"), h("small", { class: "soft" }));
      put(cell.children[0], shown(row.address));
      put(cell.children[1], shown(row.client_id) && shown(row.client_id) !== "-" ? " " + short(shown(row.client_id)) : "");
    } },
    { name: "state", title: "State", class: "t", text: (row) => (row.running.length ? "works" : row.asleep ? "sleeps" : "awake"), by: (row) => (row.running.length ? 2 : row.asleep ? 0 : 1) },
    { name: "runs", title: "Runs", by: (row) => Math.max(-1, ...row.running.map((job) => job.since_s)), draw: (cell, row) => {
      if (!cell.firstChild) cell.append(h("div", { class: "runs" }));
      keyed(cell.firstChild, row.running, (job) => lines(job.handle), (job) => {
        const node = h("div", { class: "run" }, h("a", { href: "#/function/" + percent(job.function) }, short(shown(job.function), 80)), h("span", { class: "soft" }, lines(job.handle)), h("span", { class: "t" }), h("span", { class: "t" }));
        node.append(button("cancel", () => node.item || job));
        return node;
      }, (node, job) => { progress(node.children[2], job); put(node.children[3], "for " + duration(job.since_s)); node.children[4].refresh(); });
    } },
    { name: "functions", title: "Can do", class: "name wide", by: (row) => row.functions.length, draw: (cell, row) => {
      const names = namesOf(row);
      put(cell, short(names.slice(0, 4).join(", "), 120) + (names.length > 4 ? " and " + count(names.length - 4) + " more" : ""));
      set(cell, "title", names.length > 4 ? short(names.join(", "), 2000) : null);
    } },
  ],
});

const clientTable = () => table({
  label: "Clients", key: (row) => shown(row.address) + lines((row.waits_for_jobs[0] || {}).handle), empty: "No client is connected.", sort: "waits", find: (row) => [shown(row.address), shown(row.client_id), ...row.waits_for_jobs.map((job) => shown(job.function) + " " + lines(job.handle))].join(" "),
  columns: [
    { name: "client", title: "Client", head: true, class: "name", text: (row) => shown(row.address), by: (row) => shown(row.address) },
    { name: "id", title: "Id", class: "name wide", text: (row) => (shown(row.client_id) === "-" ? "" : short(shown(row.client_id))), by: (row) => shown(row.client_id) },
    { name: "waits", title: "Waits for", class: "n", draw: (cell, row) => number(cell, row.waits_for), by: (row) => row.waits_for },
    { name: "jobs", title: "Jobs", draw: (cell, row) => {
      if (!cell.firstChild) cell.append(h("div", { class: "runs" }), h("small"));
      keyed(cell.firstChild, row.waits_for_jobs.slice(0, 3), (job) => lines(job.handle), (job) => h("div", { class: "run" }, h("a", { href: "#/function/" + percent(job.function) }, short(shown(job.function), 80)), h("span", { class: "soft" }, lines(job.handle)), h("span", { class: "t" }), h("span", { class: "t" })), (node, job) => {
        put(node.children[2], job.state + (job.since_s === null ? "" : " for " + duration(job.since_s)));
        progress(node.children[3], job.denominator ? job : { ...job, state: "" });
      });
      put(cell.children[1], row.waits_for > 3 ? "and " + count(row.waits_for - 3) + " more" : "");
    } },
  ],
});

const VIEWS = {
  "": { title: "Functions", feeds: ["workers", "history", "histories"], build: buildOverview },
  jobs: { title: "Jobs", feeds: ["jobs"], build: plainView("jobs", () => jobTable("All jobs", false)) },
  workers: { title: "Workers", feeds: ["workers"], build: plainView("workers", workerTable) },
  clients: { title: "Clients", feeds: ["clients"], build: plainView("clients", clientTable) },
  failures: { title: "Failures", feeds: [], build: plainView("failures", () => failureTable("Recent failures", false)) },
  function: { title: null, feeds: ["function", "function.history", "function.jobs", "function.failures", "function.buried"], build: buildFunction },
};

let view = { feeds: [] };

function route() {
  const place = location.hash;
  // Another anchor of the page: the view stays.
  if (place && !place.startsWith("#/") && view.update) return;
  const [name, ...rest] = place.startsWith("#/") ? place.slice(2).split("/") : [""];
  const shownOne = VIEWS[name] || VIEWS[""];
  for (const each of feeds.values()) if (each.name.startsWith("function.") || each.name === "function") restart(each);
  const wasThere = Boolean(view.update);
  view = { ...shownOne, name: VIEWS[name] ? name : "", id: rest.join("/") };
  seen.clear();
  const main = byId("main");
  main.replaceChildren();
  view.update = view.build(main);
  if (wasThere) {
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
  tick();
  paint();
}

// -- the head -----------------------------------------------------------------------------

const STORE = (now) => (now.store ? (now.store.failing ? "failing" : now.store.size_bytes === null || now.store.size_bytes === undefined ? "on" : size(now.store.size_bytes)) : "memory");

const FACTS = [
  ["Up", (now) => duration(Math.max(0, nowS() - now.started_s)), (now) => "pid " + now.pid],
  ["Queued", (now) => count(now.jobs - now.running), () => ""],
  ["Running", (now) => count(now.running), () => ""],
  ["Functions", (now) => count(now.functions), () => ""],
  ["Connections", (now) => count(now.connections.gearman), (now) => "+" + count(now.connections.http) + " HTTP"],
  ["Memory", (now) => size(now.memory_bytes), () => ""],
  ["Store", STORE, (now) => (now.store ? (now.store.waiting ? count(now.store.waiting) + " waiting " : "") + (now.store.failures ? plural(now.store.failures, "failure") : "") : "only")],
];

function stateOf() {
  const now = data("server"), ready = data("ready");
  if (server.lostAt !== null) return ["bad", "Unreachable"];
  if ((now && now.draining) || (ready && !ready.ready && ready.why.some((each) => each.includes("stop")))) return ["warn", "Draining"];
  if (ready && !ready.ready) return ["bad", "Not ready"];
  return ready ? ["good", "Ready"] : ["", "Asking …"];
}

function paintHead() {
  const now = data("server"), ready = data("ready"), error = feeds.get("server").error;
  const [level, word] = stateOf();
  put(byId("brand"), "gearmand" + (now ? " " + shown(now.version) : ""));
  put(byId("state"), word).className = "state " + level;
  const says = server.lostAt !== null ? "The server does not answer since " + clock(server.lostAt / 1000) + ". What is below is from before; this page asks on." : ready && !ready.ready ? "The server is not ready: " + ready.why.join("; ") + "." : error ? why(error) : "";
  put(byId("banner"), says);
  byId("banner").hidden = !says;
  keyed(byId("facts"), now ? FACTS : [], ([name]) => name, ([name]) => h("div", {}, h("dt", {}, name), h("dd", {}, h("span"), " ", h("small"))), (node, [, text, small]) => {
    put(node.children[1].children[0], text(now));
    put(node.children[1].children[1], small(now));
  });
  byId("facts").hidden = !now;
  for (const press of byId("tools").querySelectorAll("[data-action]")) press.refresh();
  const bad = troubles().list.length;
  document.title = (server.lostAt !== null ? "✖ " : bad ? "(" + bad + ") " : "") + "gearmand " + location.host;
  keyed(byId("nav"), Object.keys(VIEWS).filter((name) => VIEWS[name].title), (name) => name, (name) => h("a", { href: "#/" + name }, VIEWS[name].title), (node, name) => set(node, "aria-current", view.name === name ? "page" : null));
}

let isPainting = false;

function paint() {
  if (isPainting) return;
  isPainting = true;
  requestAnimationFrame(() => {
    isPainting = false;
    paintHead();
    if (view.update) view.update();
  });
}

// -- light and dark -------------------------------------------------------------------------

const darkness = window.matchMedia("(prefers-color-scheme: dark)");
let theme = storage.get("localStorage", "gearmand.theme") || "auto";

function applyTheme() {
  document.documentElement.dataset.theme = theme === "auto" ? (darkness.matches ? "dark" : "light") : theme;
}

function start() {
  applyTheme();
  darkness.addEventListener("change", applyTheme);
  const themes = h("select", { "aria-label": "Light or dark", on: { change: () => { theme = themes.value; storage.set("localStorage", "gearmand.theme", theme === "auto" ? "" : theme); applyTheme(); } } },
    ...[["auto", "Auto"], ["light", "Light"], ["dark", "Dark"]].map(([value, text]) => h("option", { value, selected: value === theme }, text)));
  byId("tools").append(button("submit", () => ({})), button("drain", () => ({})), button("stop", () => ({})), h("button", { type: "button", on: { click: askForToken } }, "Token"), themes);
  window.addEventListener("hashchange", route);
  window.addEventListener("resize", paint);
  document.addEventListener("visibilitychange", tick);
  document.addEventListener("keydown", (event) => {
    const search = document.querySelector("main input[type=search]");
    if (event.key === "/" && search && !byId("dialog").open && !event.target.closest("input, textarea, select")) event.preventDefault(), search.focus();
  });
  route();
  setInterval(tick, 250);
}

start();
