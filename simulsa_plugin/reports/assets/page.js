// What every report has: its data, the switch between light and dark, tables that sort.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

/** Make an element. `attributes` starting with "on" are listeners; children are nodes or text, never HTML. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Read a colour of the design, which depends on the theme. */
function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function formatNumber(value, digits = 2) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

// Light and dark: the system's setting until the reader chooses.
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const themeListeners = [];
let chosenTheme = null;
function applyTheme() {
  const theme = chosenTheme ?? (systemIsDark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  button.textContent = theme === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Switch to ${theme === "dark" ? "light" : "dark"} colours`);
  for (const listener of themeListeners) listener();
}
document.getElementById("theme").addEventListener("click", () => {
  chosenTheme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  applyTheme();
});
systemIsDark.addEventListener("change", applyTheme);

/** Let a click on a head sort a table; `data-value` of a cell counts instead of its text. Missing values come last. */
function makeSortable(table) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => {
    const text = head.textContent;
    head.textContent = "";
    head.append(element("button", { type: "button", onclick: () => sortBy(table, heads, column) }, text));
  });
}
function sortBy(table, heads, column) {
  const ascending = heads[column].getAttribute("aria-sort") === "descending"
    || (heads[column].getAttribute("aria-sort") === null && !heads[column].classList.contains("number"));
  heads.forEach((head, index) => {
    if (index === column) head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  });
  sortRows(table);
}
/** Sort the rows of a table as its heads say, also after rows have come or gone. */
function sortRows(table) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const column = heads.findIndex((head) => head.hasAttribute("aria-sort"));
  if (column < 0) return;
  const ascending = heads[column].getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const numeric = heads[column].classList.contains("number");
  const keyed = [...body.rows].map((row) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    return [numeric ? parseFloat(text) : text, row];
  });
  const missing = (key) => key === "" || Number.isNaN(key);
  keyed.sort(([one], [two]) => {
    if (missing(one) || missing(two)) return missing(one) - missing(two);
    const order = numeric ? one - two : one.localeCompare(two);
    return ascending ? order : -order;
  });
  body.append(...keyed.map(([, row]) => row));
}
document.querySelectorAll("table.sortable").forEach(makeSortable);
applyTheme();
