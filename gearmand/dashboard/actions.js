// -- actions --------------------------------------------------------------------------

/* Whether a recurring job coalesces: the API has an empty unique for that, which a form cannot tell from none. */
const OWN = { name: "each_alone", title: "Each is a job of its own", kind: "flag", help: "Submitted even while the one before has not ended. Without it, that one takes the new one in." };
const ofOwn = ({ each_alone, ...given }) => ({ ...given, unique: each_alone ? "" : given.unique });
const TIMES = {
  name: { help: "By which it is known here: 64 bytes at most, without blanks." },
  cron: { title: "Times", help: "Minute, hour, day of the month, month and day of the week, as in a crontab: 30 2 * * mon-fri is half past two in the morning, from Monday to Friday." },
  workload: { help: "What each job is given." },
  unique: { help: "By what it coalesces with one that has not ended. Default: the name." },
};
const dueNext = (answer) => "It is due in " + duration(Math.max(1, answer.next_s - nowS())) + ", " + when(answer.next_s) + ".";

/* `path`: of the operation; its braces are filled in from the subject, and its fields are those that the API lists, or `only`
   some of them; `adds`: one of the page's own, of which `makes` makes what the API has. `first`: what to ask for about the subject
   before it begins. `fields`: what the page says of some of them, in the API's place; of the whole it says all then. `title`, `says`, `done`: text about the subject. `check`: why not, where that is known before the server is asked.
   `shows`: what is to be read in the answer. */
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
  add: { method: "PUT", path: "/recurring/{name}", label: "Add a recurring job", press: "Add", title: () => "Add a recurring job", says: () => "The server submits a background job of the function at these times, whether a client is there or not. The times are those of the server's clock.",
    fields: TIMES, adds: OWN, makes: ofOwn, check: (of, given) => ((data("recurring") || []).some((each) => each.job === given.name) ? "There is a recurring job of that name: change it, or take another name." : null), done: (of, answer) => "Added recurring job " + shown(answer.name) + ". " + dueNext(answer) },
  change: { method: "PUT", path: "/recurring/{name}", label: "Change", press: "Change", first: "/recurring/{name}", title: (of) => "Change recurring job " + shown(of.name), says: () => "From now on it is submitted so. What it has submitted stays as it is.",
    preset: (of) => ({ ...of, unique: of.unique === "" || keyOf(of.unique) === keyOf(of.name) ? null : of.unique, each_alone: of.unique === "" }), fields: TIMES, adds: OWN, makes: ofOwn, done: (of, answer) => "Changed recurring job " + shown(of.name) + ". " + dueNext(answer) },
  remove: { method: "DELETE", path: "/recurring/{name}", label: "Remove", danger: true, fields: {}, title: (of) => "Remove recurring job " + shown(of.name) + "?", says: (of) => "It is a job of " + shown(of.function) + ", and is not submitted any more. What it has submitted stays.",
    done: (of) => "Removed recurring job " + shown(of.name) + "." },
  drain: { method: "POST", path: "/drain", label: "Drain", danger: true, title: () => "Drain the server?", says: () => "It takes no new jobs from now on: clients are refused. " + load() + " It stops when its work is done, and this page ends with it.",
    done: () => "The server takes no new jobs." },
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
    set(node, "aria-label", subject && (subject.job || subject.handle) ? action.label + (subject.job ? " recurring job " + subject.job : " job " + lines(subject.handle)) : null);
  };
  node.refresh();
  return node;
}

const toolbar = (names, subjectOf) => h("div", { class: "toolbar" }, ...names.map((name) => button(name, subjectOf)));

/* The form field of a field of the API, and `read` for its value. */
function fieldOf(field, given) {
  const title = field.title || field.name.replace(/_s$/, "").replace(/_/g, " ").replace(/^./, (each) => each.toUpperCase()) + (field.kind === "seconds" ? " (seconds)" : "");
  const isText = typeof given === "string", isBytes = Boolean(given) && typeof given === "object";
  const words = field.kind.includes("|") ? field.kind.split("|") : null;
  const isNumber = ["number", "seconds", "amount"].includes(field.kind);
  const usual = given === undefined || given === null ? field.default : given;
  // As many as there are.
  const start = isNumber && usual >= 1e9 ? null : usual;
  const input = words ? h("select", {}, ...(field.required || field.default ? words : ["", ...words]).map((each) => h("option", { value: each, selected: each === start }, each || "all")))
    : field.kind === "flag" ? h("input", { type: "checkbox", checked: start === true })
    : field.kind === "bytes" && field.name === "workload" ? h("textarea", { class: "field mono", rows: 3, placeholder: isBytes ? "It is no text. It stays as it is, unless something is written here." : null }, isBytes ? null : given)
    : h("input", { class: "field", type: isNumber ? "number" : "text", step: field.kind === "number" ? null : "any", min: 0, value: start === null || start === undefined ? null : lines(start), autocomplete: "off" });
  input.name = field.name;
  input.required = field.required && field.kind !== "flag";
  // A field shows some bytes in a form of its own, so what nobody has touched stays what it was.
  const untouched = input.value;
  const read = () => (field.kind === "flag" ? input.checked : (isText || isBytes) && input.value === untouched ? given : input.value === "" ? null : isNumber ? Number(input.value) : input.value);
  const label = h("label", { class: field.kind === "flag" ? "flag" : null });
  label.append(...(field.kind === "flag" ? [input, h("span", {}, title)] : [h("span", {}, title), input]), h("small", {}, field.help));
  return { label, input, read, name: field.name };
}

/* Say in a dialog what an action will do, do it when that is confirmed, and say what came of it. */
async function act(action, of) {
  let subject = of;
  try {
    if (action.first) subject = { ...of, ...await call("GET", pathTo(action.first, encodedOf(action.first, of))) };
  } catch (error) {
    return notice(action.label + ": " + sentence(error.message));
  }
  if (!byId("dialog").open) ask(action, subject);
}

/* The fields of a path, as they stand in it. */
const encodedOf = (path, from) => Object.fromEntries([...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => [name, percent(from[name])]));

function ask(action, subject) {
  const operation = operationOf(action.method, action.path);
  const inPath = [...action.path.matchAll(/\{(\w+)\}/g)].map((each) => each[1]).filter((name) => name in subject);
  const preset = action.preset ? action.preset(subject) : {};
  const fixed = action.only && subject.function ? { function: subject.function } : {};
  const fields = [...operation.fields, ...(action.adds ? [action.adds] : [])]
    .filter((each) => !inPath.includes(each.name) && !(each.name in fixed) && (!action.only || action.only.includes(each.name)))
    .map((each) => fieldOf({ ...each, ...(action.fields || {})[each.name] }, preset[each.name]));
  dialog(action.title(subject), [action.says(subject), ...(action.fields ? [] : [operation.help])], fields, { press: action.press || action.label, danger: action.danger }, async () => {
    const given = Object.fromEntries([...fields.map((each) => [each.name, each.read()]), ...Object.entries(fixed)].filter(([, value]) => value !== null || action.method === "PUT"));
    const why = action.check && action.check(subject, given);
    if (why) throw new Trouble(1, why);
    const encoded = encodedOf(action.path, { ...given, ...subject });
    const parts = Object.entries(action.makes ? action.makes(given) : given).filter(([name]) => !(name in encoded));
    const isQuery = action.method === "GET";
    const path = withQuery(pathTo(action.path, encoded), isQuery ? parts.map(([name, value]) => name + "=" + encodeURIComponent(value)).join("&") : "");
    try {
      const answer = await call(action.method, path, isQuery || !parts.length ? undefined : Object.fromEntries(parts), 15 + (given.timeout_s || 0));
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
