"use strict";
/* The dashboard: these files follow each other in one script (dashboard_page.py says in which order). Its concepts:

   feeds     what has been fetched, each with its path and how often it is asked for
   VIEWS     what can be seen: a function that builds a view once and returns one that brings it up to date
   ACTIONS   what can be done: an operation of the API, and what is said about it
   act       asks for confirmation, does an action, says what came of it

   Whatever comes from the server is text: it becomes textContent or an
   attribute's value, never HTML. Nodes are kept and brought up to date, so that
   focus, selection and opened details stay where they are. */

/* Where the page is, which a proxy may have put below a path of its own; everything is asked for there. */
const ROOT = location.pathname.replace(/\/+$/, "");
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

/* The path of an operation: its braces are filled in from `encoded`, by name. A browser takes dots for steps in a path, and proxies
   may undo what encodes a slash: such a part goes into the query. */
function pathTo(template, encoded) {
  const query = [];
  const path = template.replace(/\{(\w+)\}/g, (_, name) => {
    if (!/^(\.|%2e){1,2}$|%2f|%5c/i.test(encoded[name])) return encoded[name];
    query.push(name + "=" + encoded[name]);
    return "-";
  });
  return API + path + (query.length ? "?" + query.join("&") : "");
}

const withQuery = (path, query) => (query ? path + (path.includes("?") ? "&" : "?") + query : path);

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

/* The day and the minute, in this browser's time. */
function when(epochS) {
  const at = new Date(epochS * 1000);
  const year = at.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
  return at.toLocaleString("en-GB", { weekday: "short", day: "numeric", month: "short", ...year, hour: "2-digit", minute: "2-digit" });
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
