// -- the head -----------------------------------------------------------------------------

const STORE = (now) => (now.store ? (now.store.failing ? "failing" : now.store.size_bytes === null || now.store.size_bytes === undefined ? "on" : size(now.store.size_bytes)) : "memory");

const FACTS = [
  ["Up", (now) => duration(Math.max(0, (server.lostAt === null ? nowS() : server.lostAt / 1000 + server.skewS) - now.started_s)), (now) => "pid " + now.pid],
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
  document.title = (server.lostAt !== null ? "✖ " : bad ? "(" + bad + ") " : "") + "gearmand " + location.host + ROOT;
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
  byId("tools").append(button("submit", () => ({})), button("drain", () => ({})), h("button", { type: "button", on: { click: askForToken } }, "Token"), themes);
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
