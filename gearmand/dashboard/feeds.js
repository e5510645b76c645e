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
// Of this server alone: others may be below other paths of the same host.
const TOKEN = "gearmand.token" + ROOT;
let token = storage.get("sessionStorage", TOKEN);

const nowS = () => Date.now() / 1000 + server.skewS;

async function call(method, path, fields, timeoutS = 15) {
  const headers = {}, used = token;
  if (used) headers.Authorization = "Bearer " + used;
  if (fields) headers["Content-Type"] = "application/json";
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), timeoutS * 1000);
  let answer, text;
  try {
    answer = await fetch(ROOT + path, { method, headers, body: fields ? JSON.stringify(fields) : undefined, signal: stop.signal, cache: "no-store", redirect: "error" });
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
    // What is answered late may be about an earlier one.
    if (answer.status === 401 && token === used) useToken("", "The token is not in the access list, and has been forgotten.");
    throw new Trouble(answer.status, found.error.text, found.error.data);
  }
  return found;
}

function useToken(value, says) {
  if (value === token) return;
  token = value;
  storage.set("sessionStorage", TOKEN, value);
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
feed("recurring", 4, () => API + "/recurring?limit=10000&workloads=false", takeRecurring);
feed("history", 15, () => API + "/history" + since(data("history"), "?"), (answer, before) => longer(before, answer, answer));
feed("histories", 15, () => API + "/histories?" + (data("histories") ? "limit=2000" + since(data("histories"), "&") : "limit=100"), takeHistories);

// Of the function that is open.
const ofOpen = (path) => () => (view.id ? path(view.id) : null);
feed("function", 2, ofOpen((id) => pathTo("/functions/{function}", { function: id })));
feed("function.history", 15, ofOpen((id) => API + "/history?function=" + id + since(data("function.history"), "&")), (answer, before) => longer(before, answer, answer));
feed("function.jobs", 3, ofOpen((id) => API + "/jobs?limit=1000&function=" + id), takeJobs);
feed("function.failures", 5, ofOpen((id) => API + "/failures?function=" + id), (answer) => named(answer.failures));
feed("function.buried", 5, ofOpen((id) => (has("GET", "/functions/{function}/buried") ? withQuery(pathTo("/functions/{function}/buried", { function: id }), "count=1000") : null)), (answer) => rowsOf(answer.jobs, answer.jobs.length === 1000));

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

/* `job`: its name as text, by which actions tell it from a job. */
function takeRecurring(answer) {
  for (const each of answer.recurring) each.job = shown(each.name), each.of = shown(each.function);
  return rowsOf(answer.recurring, answer.truncated);
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
