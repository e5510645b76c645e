// -- views --------------------------------------------------------------------------------

function functionTable() {
  const words = (row) => troubles().words.get(row.key) || [];
  return table({
    label: "Functions", narrow: "numbered", key: (row) => row.key, empty: "There are no functions yet: a worker or a job makes one.", sort: "queued", find: (row) => row.name,
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
  const buriedOnes = buriedTable(), recurringOnes = recurringTable("Its recurring jobs", true);
  main.append(h("section", { "aria-label": "The function" }, h("div", { class: "head" }, h("a", { href: "#/" }, "← All functions"), title, words), bar, says, numbers),
    h("section", { "aria-label": "The last hour" }, h("div", { class: "head" }, h("h2", {}, "The last hour")), hour.node), jobs.node, buriedOnes.node, failures.node, recurringOnes.node, histogram);
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
    const again = each && (data("recurring") || []).filter((one) => keyOf(one.function) === each.key);
    recurringOnes.node.hidden = !again || !again.length;
    recurringOnes.show(again, feeds.get("recurring"));
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
    { name: "runs", title: "Runs", class: "full", by: (row) => Math.max(-1, ...row.running.map((job) => job.since_s)), draw: (cell, row) => {
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
    { name: "waits", title: "Waits for", stacked: "Waits for", class: "n", draw: (cell, row) => number(cell, row.waits_for), by: (row) => row.waits_for },
    { name: "jobs", title: "Jobs", class: "full", draw: (cell, row) => {
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
  recurring: { title: "Recurring", feeds: ["recurring"], build: plainView("recurring", () => recurringTable("Recurring jobs", false)) },
  workers: { title: "Workers", feeds: ["workers"], build: plainView("workers", workerTable) },
  clients: { title: "Clients", feeds: ["clients"], build: plainView("clients", clientTable) },
  failures: { title: "Failures", feeds: [], build: plainView("failures", () => failureTable("Recent failures", false)) },
  function: { title: null, feeds: ["function", "function.history", "function.jobs", "function.failures", "function.buried", "recurring"], build: buildFunction },
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
