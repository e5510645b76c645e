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
