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
    { name: "since", title: "For", stacked: "For", class: "n", text: (row) => (row.state === "scheduled" ? "in " + duration(row.due_in_s) : duration(row.since_s)), by: (row) => (row.state === "scheduled" ? -row.due_in_s : row.since_s) },
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
    { name: "data", title: "What the worker said", class: "full", draw: said, by: (row) => lastLine(lines(row.data)) },
    { name: "handle", title: "Handle", class: "t wide", text: (row) => lines(row.handle), by: (row) => lines(row.handle) },
    { name: "unique", title: "Unique", class: "name wide", text: (row) => short(shown(row.unique), 64), by: (row) => shown(row.unique) },
  ],
});

/* A moment: how far it is away, and below that when it is. */
function moment(cell, epochS, isToCome) {
  if (!cell.firstChild) cell.append(h("span"), " ", h("small"));
  const far = isToCome ? epochS - nowS() : nowS() - epochS;
  put(cell.children[0], epochS === null ? "–" : far < 1 ? "now" : isToCome ? "in " + duration(far) : duration(far) + " ago");
  put(cell.children[1], epochS === null ? "" : when(epochS));
  cell.classList.toggle("zero", epochS === null);
}

/* The fields of a crontab, broken between them, unless one is long. */
function times(cell, row) {
  if (cell.said === row.cron) return;
  cell.said = row.cron;
  cell.replaceChildren(...row.cron.split(" ").flatMap((each) => [h("span", { class: each.length < 25 ? "t" : null }, each), " "]));
}

function outcome(cell, row) {
  put(cell, row.refused ? lines(row.refused.code) + ": " + lines(row.refused.text) : row.handle !== null ? "job " + lines(row.handle) : "");
  cell.classList.toggle("alarm", row.refused !== null);
}

const recurringTable = (label, isOfOne) => table({
  label, key: (row) => keyOf(row.name), empty: "There are no recurring jobs. One that is added here is submitted by the server itself, at the times of a crontab.", sort: "next", down: false,
  find: (row) => [row.job, row.of, row.cron, row.priority, shown(row.unique), row.refused ? row.refused.code + " " + row.refused.text : "", lines(row.handle)].join(" "),
  filters: [["All", null], ["Refused", (row) => row.refused !== null]], tools: isOfOne ? [] : [button("add", () => ({}))],
  columns: [
    { name: "name", title: "Name", head: true, class: "name", text: (row) => row.job, by: (row) => sortable(row.job).replace(/\d+/g, (each) => each.padStart(12, "0")) },
    ...(isOfOne ? [] : [{ name: "function", title: "Function", class: "name", draw: (cell, row) => linkTo(cell, row.of, percent(row.function)), by: (row) => sortable(row.of) }]),
    { name: "cron", title: "Times", class: "name mono cron", draw: times, by: (row) => row.cron },
    { name: "next", title: "Next", stacked: "Next", class: "t", draw: (cell, row) => moment(cell, row.next_s, true), by: (row) => row.next_s },
    { name: "last", title: "Last", stacked: "Last", class: "t", draw: (cell, row) => moment(cell, row.last_s, false), by: (row) => row.last_s },
    { name: "outcome", title: "What became of it", class: "name grow", draw: outcome, by: (row) => (row.refused ? 0 : row.handle !== null ? 1 : 2) },
    { name: "priority", title: "Priority", class: "t wide", text: (row) => row.priority, by: (row) => ["low", "normal", "high"].indexOf(row.priority) },
    { name: "act", title: "", class: "n", draw: (cell) => {
      if (!cell.firstChild) cell.append(toolbar(["change", "remove"], () => cell.parentNode && cell.parentNode.item));
      for (const each of cell.firstChild.children) each.refresh();
    } },
  ],
});

const buriedTable = () => table({
  label: "Buried jobs", key: (row) => lines(row.handle), empty: "No job has used its attempts up.", sort: "time", find: (row) => [lines(row.handle), shown(row.unique), lines(row.why), lines(row.workload)].join(" "),
  columns: [
    { name: "time", title: "When", class: "t", text: (row) => clock(row.epoch_s) + " · " + duration(Math.max(0, nowS() - row.epoch_s)) + " ago", by: (row) => row.epoch_s },
    { name: "why", title: "Why", class: "full", draw: (cell, row) => said(cell, { data: row.why, kind: "failed" }), by: (row) => lastLine(lines(row.why)) },
    { name: "handle", title: "Handle", class: "t", text: (row) => lines(row.handle), by: (row) => lines(row.handle) },
    { name: "unique", title: "Unique", class: "name wide", text: (row) => short(shown(row.unique), 64), by: (row) => shown(row.unique) },
    { name: "workload", title: "Workload", class: "name mono wide", text: (row) => short(shown(row.workload), 200), by: (row) => row.workload_bytes },
  ],
});
