// -- tables ---------------------------------------------------------------------------

// What has been searched for and sorted by outlives the view.
const memory = new Map();

/* A table that can be searched and sorted, a page at a time.
   `columns`: {name, title, text(row) or draw(cell, row), by(row), class, head}; `by` is what it is sorted by.
   `narrow`: how a row is laid out on a narrow screen: stack, as a card, where `stacked` of a column stands before its value; or
   numbered, its head in a line of its own above its numbers.
   Returns its node and `show(rows, feed)`. */
function table({ label, columns, key, empty, sort = null, down = true, find = null, filters = null, tools = [], narrow = "stack" }) {
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
      now.down = now.sort === column.name ? !now.down : !/\b(name|t)\b/.test(column.class);
      now.sort = column.name;
      again();
    } } }, column.title);
    return h("th", { scope: "col", role: "columnheader", class: column.class }, press || (column.title || h("span", { class: "unseen" }, column.hidden || "Actions")));
  });
  const body = h("tbody", { role: "rowgroup", on: Object.fromEntries(["pointermove", "focusin", "keydown"].map((kind) => [kind, () => { touchedAt = performance.now(); }])) });
  // Roles, because a table that is not laid out as one is none for those who do not see it.
  const grid = h("table", { role: "table", class: narrow }, h("caption", { class: "unseen" }, label), h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...heads)), body);
  const scroll = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, grid);
  const says = h("p", { class: "says" });
  const total = h("span", { class: "soft" });
  const turn = (text, by) => h("button", { type: "button", on: { click: () => { now.page += by; held = []; update(); } } }, text);
  const [back, on, place] = [turn("Previous", -1), turn("Next", 1), h("span", { "aria-live": "polite" })];
  const pager = h("div", { class: "pager" }, place, back, on);
  const title = h("h2", {}, label);
  const node = h("section", { "aria-label": label }, h("div", { class: "head" }, title, total, h("div", { class: "find" }, ...tools, choice, search)), says, scroll, pager);

  function create() {
    const line = h("tr", { role: "row" });
    columns.forEach((column) => line.append(h(column.head ? "th" : "td", { class: column.class, scope: column.head ? "row" : null, role: column.head ? "rowheader" : "cell", "data-stacked": column.stacked })));
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
    for (const each of tools) each.refresh();
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
