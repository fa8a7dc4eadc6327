// Instances of an evaluation, in one or two systems: search, replay, time line, differences from the reference.
"use strict";

const browser = data.browser;
const STRUCK_MS = 800; // for how long text that was taken back is shown, struck through
const MOST_PAIRS = 4_000_000; // of units that are compared: a longer text, of a model that repeats itself, is shown as it is
const LANES = 3, LANE_HEIGHT = 17; // of the words of a system on the time line
const LAST_ROOM = 280; // pixels: wider words that come last are wrapped

function showBrowser(box) {
  box.replaceChildren();
  const shownCells = [...new Set(browser.instances.flatMap((one) => Object.keys(one.cells)))].map(Number)
    .sort((one, two) => one - two);
  const kinds = [...new Set(browser.instances.flatMap((one) => one.kinds))];
  const names = shownCells.map((number) => browser.cells[number].label);
  const instance = browser.instances.find((one) => one.kinds.includes("random")) ?? browser.instances[0];
  const state = { instance, ...firstPair(Object.keys(instance.cells).map(Number)), kind: "all", text: "" };

  const cellSelect = (label, key, optional) => {
    const select = element("select", { onchange: () => { state[key] = select.value === "" ? null : Number(select.value); list(); show(); } },
      ...(optional ? [element("option", { value: "" }, "none")] : []),
      ...shownCells.map((number, index) => element("option", { value: number, selected: number === state[key] }, names[index])));
    return element("label", {}, label, select);
  };
  const kindSelect = element("select", { onchange: () => { state.kind = kindSelect.value; list(); } },
    ...["all", ...kinds].map((kind) => element("option", { value: kind }, kind)));
  const search = element("input", { type: "search", oninput: () => { state.text = search.value.toLowerCase(); list(); } });
  const rows = element("tbody");
  const count = element("p", { class: "note", role: "status" });
  const columns = [
    ...(browser.long_form ? [] : [["LAAL ms", (one, cell) => formatNumber(cell.LAAL, 0)], ["chrF", (one, cell) => formatNumber(cell.chrF, 1)]]),
    ["erased", (one, cell) => formatNumber(cell.erased, 0)], ["seconds", (one) => formatNumber(one.seconds, 1)],
  ];
  const head = (name, kind) => element("th", { scope: "col", class: kind }, name);
  const table = element("table", { class: "sortable" }, element("thead", {}, element("tr", {}, head("instance"),
    ...columns.map(([name]) => head(name, "number")), head("reference"))), rows);
  const scroller = element("div", { class: "scroll list", tabindex: "0", role: "region", "aria-label": "Instances" }, table);
  const detail = element("div", { id: "detail" });
  box.append(element("div", { class: "browser" }, element("section", { "aria-label": "List of instances" },
    element("div", { class: "controls" }, cellSelect("System A", "left", false), cellSelect("System B", "right", true),
      element("label", {}, "Show", kindSelect), element("label", {}, "Search", search)),
    count, scroller), detail));
  makeSortable(table);
  list();
  show();
  const chosen = [...rows.rows].find((row) => row.dataset.id === state.instance.id);
  scroller.scrollTop = chosen.offsetTop - table.tHead.offsetHeight;

  function matches(one) {
    const texts = [one.id, one.reference ?? "", ...Object.values(one.cells).map(({ text }) => text)];
    return (state.kind === "all" || one.kinds.includes(state.kind))
      && (!state.text || texts.some((text) => text.toLowerCase().includes(state.text)));
  }
  function list() {
    const found = browser.instances.filter(matches);
    const leftOut = browser.left_out ? ` The page has no room for ${browser.left_out} more.` : "";
    count.textContent = `${found.length} of ${browser.instances.length} shown instances; values of system A.${leftOut}`;
    rows.replaceChildren(...found.map((one) => {
      const cell = one.cells[state.left] ?? {};
      const open = element("button", { type: "button", onclick: () => select(one) }, one.id);
      const values = columns.map(([, value]) => element("td", { class: "number" }, value(one, cell)));
      const reference = one.reference ?? one.segments.map(([, , text]) => text).join(" ");
      return element("tr", { "aria-selected": String(one === state.instance), "data-id": one.id }, element("td", {}, open),
        ...values, element("td", { dir: "auto" }, shortened(reference) || "–"));
    }));
    sortRows(table);
  }
  function select(one) {
    state.instance = one;
    for (const row of rows.rows) row.setAttribute("aria-selected", String(row.dataset.id === one.id));
    show();
    detail.scrollIntoView({ block: "nearest" });
  }
  function show() {
    detail.replaceChildren(showInstance(state.instance, [state.left, state.right].filter((number) => number !== null)));
  }
}

/** The cells that are shown first: the first one that streams; the same cell of another result, or the last one. */
function firstPair(numbers) {
  const cells = browser.cells, streaming = numbers.filter((number) => cells[number].streams);
  const left = streaming[0] ?? numbers[0];
  const others = streaming.filter((number) => cells[number].result !== cells[left].result);
  const right = others.find((number) => cells[number].key === cells[left].key) ?? others[0] ?? streaming.at(-1) ?? left;
  return { left, right: right === left ? null : right };
}
function shortened(text) {
  return text.length <= 200 ? text : `${text.slice(0, text.lastIndexOf(" ", 200) + 1 || 200)}…`;
}

/** An instance in one or two systems: the replay, the time line and the differences from the reference. */
function showInstance(one, numbers) {
  const seconds = one.shown_seconds;
  const clock = makeClock(one, seconds);
  const shown = numbers.filter((number) => one.cells[number]);
  const systems = shown.map((number) => systemView(one, number));
  const timeline = drawTimeline(one, shown, seconds, clock);
  clock.listen((now) => {
    for (const system of systems) system.update(now * 1000);
    timeline.update(now);
  });
  clock.set(seconds);
  return element("article", {},
    element("h3", {}, one.id, " ", element("span", { class: "muted" }, one.kinds.join(", "))),
    clock.controls,
    one.note ? element("p", { class: "note" }, one.note) : null,
    seconds < one.seconds ? element("p", { class: "note" }, `The first ${seconds} of ${one.seconds.toFixed(0)} seconds.`) : null,
    timeline.view,
    element("p", { class: "note" }, `Above: ${audioShown(one)}. Below: each word when it was committed whole, which a word is once a space or the end follows; the replay shows it earlier. Triangles: text was taken back. A click moves the replay.`),
    element("div", { class: "charts" }, ...systems.map(({ view }) => view)),
    one.segments.length ? segmentsTable(one, shown, clock)
      : element("p", {}, element("b", {}, "Reference: "), element("bdi", {}, one.reference ?? "–")));
}
function audioShown(one) {
  const heard = Object.values(one.speech).some((speech) => speech.length);
  if (!one.segments.length && !heard) return "the audio";
  return `${one.segments.length ? "the reference segments" : "the audio"}${heard ? ", and thinner the speech segments that were found and decoded" : ""}`;
}
/** The reference segments of a recording, and how the translation that was aligned to each differs from it. */
function segmentsTable(one, numbers, clock) {
  const heads = ["from s", "reference", ...numbers.map((number) => browser.cells[number].label)];
  const rows = one.segments.map(([start, , text], index) => element("tr", {},
    element("td", { class: "number" }, element("button", { type: "button", onclick: () => clock.set(start) }, start.toFixed(1))),
    element("td", { dir: "auto" }, text ?? "–"),
    ...numbers.map((number) => {
      const [translation, chrf] = one.cells[number].aligned[index] ?? ["", null];
      return element("td", { class: "diff" }, element("bdi", {}, ...difference(translation, text ?? "")), element("span", { class: "count" }, `chrF ${formatNumber(chrf, 1)}`));
    })));
  return element("figure", { class: "table" }, element("figcaption", {}, "Reference segments, and the translations that were aligned to them"),
    element("div", { class: "scroll list segments", tabindex: "0", role: "region", "aria-label": "Reference segments" },
      element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
        element("tbody", {}, ...rows))));
}

/** The audio of an instance, or a clock where there is none; `listen` gives the seconds. */
function makeClock(one, seconds) {
  const listeners = [];
  const tell = (now) => listeners.forEach((listener) => listener(now));
  const slider = element("input", { type: "range", min: 0, max: seconds, step: 0.01, value: seconds, "aria-label": "Time",
    oninput: () => set(Number(slider.value)) });
  const shown = element("output", {}, "");
  const button = element("button", { type: "button", onclick: () => (playing ? stop() : play()) }, "Replay");
  const audio = one.audio ? element("audio", { src: one.audio, preload: "auto" }) : null;
  let playing = false, started = 0, now = seconds;
  function set(value) {
    now = value;
    if (audio && Math.abs(audio.currentTime - value) > 0.05) audio.currentTime = Math.min(value, audio.duration || value);
    started = performance.now() - 1000 * value;
    display();
  }
  function display() {
    slider.value = now;
    shown.textContent = `${now.toFixed(2)} s of ${seconds.toFixed(2)} s`;
    tell(now);
  }
  function play() {
    if (now >= seconds - 0.05) set(0);
    playing = true;
    started = performance.now() - 1000 * now;
    button.textContent = "Pause";
    if (audio) audio.play().catch(() => { });
    requestAnimationFrame(tick);
  }
  function stop() {
    playing = false;
    button.textContent = "Replay";
    audio?.pause();
  }
  function tick() {
    if (!playing || !button.isConnected) { audio?.pause(); return; }
    const heard = audio && !audio.paused ? audio.currentTime : (performance.now() - started) / 1000;
    now = audio?.ended ? seconds : Math.min(heard, seconds);
    display();
    if (now >= seconds) stop();
    else requestAnimationFrame(tick);
  }
  return { controls: element("div", { class: "controls replay" }, button, slider, shown, audio),
    listen: (listener) => listeners.push(listener), set };
}

/** What a system shows at a time, and how its text differs from the reference. */
function systemView(one, number) {
  const cell = one.cells[number], label = browser.cells[number].label;
  const screen = element("div", { class: "screen", dir: "auto", tabindex: "0", role: "region", "aria-label": `Text of ${label}`, "data-cell": number });
  const facts = [
    browser.long_form ? null : `LAAL ${formatNumber(cell.LAAL, 0)} ms, chrF ${formatNumber(cell.chrF, 1)}`,
    `${cell.erased} ${browser.unit === "char" ? "characters" : "words"} taken back`, cell.truncated ? "truncated" : null,
  ];
  const against = browser.long_form || !one.reference ? null
    : element("p", { class: "diff" }, element("b", {}, "Against the reference: "), element("bdi", {}, ...difference(cell.text, one.reference)));
  const view = element("section", { class: "system" }, element("h3", {}, label),
    element("p", { class: "note" }, facts.filter(Boolean).join(", ")), screen, against);
  const sessions = stepsOf(cell);
  let shown = null;
  function update(ms) {
    const current = sessions.map((steps) => lastBefore(steps, ms)).filter(Boolean);
    const last = current.at(-1);
    const strikes = Boolean(last?.removed) && ms < Math.min(last.ms + STRUCK_MS, 1000 * one.shown_seconds);
    const key = last ? `${current.length} ${last.ms} ${strikes}` : "";
    if (key === shown) return;
    shown = key;
    screen.replaceChildren(...current.flatMap((step, index) => shownText(step, index > 0)),
      ...(strikes ? [" ", element("del", {}, last.removed)] : []));
    screen.scrollTop = screen.scrollHeight;
  }
  return { view, update };
}
/** What a session displays after a step: what is committed, and what may still change. */
function shownText(step, follows) {
  const committed = (follows && browser.unit !== "char" ? " " : "") + step.text.slice(0, step.committed);
  return [element("span", { class: "committed" }, committed),
    ...(step.committed < step.text.length ? [element("span", { class: "open" }, step.text.slice(step.committed))] : [])];
}
function lastBefore(steps, ms) {
  let last = null;
  for (const step of steps) {
    if (step.ms > ms + 0.5) break;
    last = step;
  }
  return last;
}
/** The steps of a cell's sessions, {ms, text, committed, removed}, from what each step changed. */
function stepsOf(cell) {
  return cell.sessions.map((changes) => {
    let text = "";
    return changes.map(([ms, kept, added, committed]) => {
      const before = text;
      text = before.slice(0, kept) + added;
      return { ms, text, committed, removed: takenBack(before, kept, text) };
    });
  });
}
/** What a step took back of a text, in whole words; a last word that grows is not taken back. */
function takenBack(before, kept, now) {
  if (!before.slice(kept).replaceAll("\ufffd", "").trim()) return "";
  if (browser.unit === "char") return before.slice(kept);
  const start = /\s/.test(now[kept] ?? " ") ? kept : before.lastIndexOf(" ", kept - 1) + 1;
  return before.slice(start).trim();
}

/** Words of a text against a reference, or characters: <del> for what only the reference has, <ins> for what only the text has. */
function difference(text, reference) {
  const glue = browser.unit === "char" ? "" : " ";
  const units = (one) => browser.unit === "char" ? [...one.replace(/\s+/g, "")] : one.split(/\s+/).filter(Boolean);
  const a = units(reference), b = units(text);
  if (a.length * b.length > MOST_PAIRS) return [text];
  const table = Array.from({ length: a.length + 1 }, () => new Int32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1)
    for (let j = b.length - 1; j >= 0; j -= 1)
      table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  const nodes = [];
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { nodes.push(a[i] + glue); i += 1; j += 1; }
    else if (j < b.length && (i === a.length || table[i][j + 1] >= table[i + 1][j])) { nodes.push(element("ins", {}, b[j]), glue); j += 1; }
    else { nodes.push(element("del", {}, a[i]), glue); i += 1; }
  }
  return nodes;
}

/** Time from left to right: the audio, its reference segments, and each word of a system where it was committed. */
function drawTimeline(one, numbers, seconds, clock) {
  const scale = Math.max(90, 640 / Math.max(seconds, 0.1));
  const heard = heardBy(one, numbers), first = 34 + heard.length * 9; // where the systems begin
  const rowHeight = 76, height = first + numbers.length * rowHeight;
  let width = seconds * scale + 40;
  const svg = vector("svg", { height, role: "img",
    "aria-label": "Time line: the audio above, the words of each system where they were committed" });
  for (let second = 0; second <= seconds; second += 1) {
    svg.append(vector("line", { x1: second * scale, x2: second * scale, y1: 14, y2: height, class: "tick" }),
      vector("text", { x: second * scale + 2, y: 11, class: "label" }, `${second} s`));
  }
  const parts = one.segments.length ? one.segments : [[0, seconds, one.reference ?? ""]];
  for (const [start, end, text] of parts) {
    if (start >= seconds) continue;
    svg.append(vector("rect", { x: start * scale, y: 16, width: Math.max(1, (Math.min(end, seconds) - start) * scale), height: 12, rx: 3,
      class: "speech" }, vector("title", {}, `${start.toFixed(2)}–${end.toFixed(2)} s: ${text}`)));
  }
  heard.forEach(({ name, speech, series }, row) => {
    speech.forEach(([start, end, closed], index) => {
      const shown = Math.max(1, (Math.min(end, seconds) - start) * scale);
      svg.append(vector("rect", { x: start * scale, y: 32 + row * 9, width: shown, height: 6, rx: 3, class: `heard ${series}` },
        vector("title", {}, `${name}speech segment ${index}: ${start.toFixed(2)}–${end.toFixed(2)} s, its end known at ${closed.toFixed(2)} s`)));
    });
  });
  numbers.forEach((number, row) => {
    const top = first + row * rowHeight;
    const words = committedWords(one.cells[number].words, scale, top + 22, `series-${row}`);
    svg.append(...words.groups);
    width = Math.max(width, words.end);
    for (const { ms, removed } of stepsOf(one.cells[number]).flat().filter((step) => step.removed)) {
      svg.append(vector("path", { d: `M ${(ms / 1000) * scale - 4} ${top + rowHeight - 6} l 4 -7 l 4 7 z`, class: `revision series-${row}` },
        vector("title", {}, `${ms} ms, taken back: ${removed}`)));
    }
  });
  const head = vector("line", { x1: 0, x2: 0, y1: 0, y2: height, class: "playhead" });
  svg.append(head);
  svg.setAttribute("width", width);
  svg.addEventListener("click", (event) => clock.set(Math.min(seconds, Math.max(0, event.offsetX / scale))));
  const view = element("div", { class: "scroll timeline", tabindex: "0", role: "region", "aria-label": "Time line" }, svg);
  function update(now) {
    head.setAttribute("x1", now * scale);
    head.setAttribute("x2", now * scale);
    if (now < seconds && (now * scale < view.scrollLeft || now * scale > view.scrollLeft + view.clientWidth - 60))
      view.scrollLeft = Math.max(0, now * scale - 60);
  }
  return { view, update };
}
/** The speech segments that the systems decoded: once where all have the same, else those of each result. */
function heardBy(one, numbers) {
  const rows = new Map();
  numbers.forEach((number, row) => {
    const { result } = browser.cells[number], speech = one.speech[result] ?? [];
    if (speech.length && !rows.has(JSON.stringify(speech))) rows.set(JSON.stringify(speech), { name: result, speech, series: `series-${row}` });
  });
  const found = [...rows.values()];
  return found.length === 1 ? [{ ...found[0], name: "", series: "" }] : found.map((each) => ({ ...each, name: `${each.name}: ` }));
}
/** Words at the times when they were committed: those of one time are wrapped into lanes that are free there; and where they end. */
function committedWords(words, scale, y, series) {
  const groups = [];
  for (const [word, ms] of words) {
    if (groups.at(-1)?.ms !== ms) groups.push({ ms, words: [] });
    groups.at(-1).words.push(word);
  }
  const ends = Array(LANES).fill(0);
  const drawn = groups.map((group, index) => {
    const x = (group.ms / 1000) * scale;
    const room = index + 1 < groups.length ? (groups[index + 1].ms / 1000) * scale - x : LAST_ROOM;
    const title = `${group.ms} ms: ${group.words.join(browser.unit === "char" ? "" : " ")}`;
    const tick = vector("line", { x1: x, x2: x, y1: y - 18, y2: y + LANES * LANE_HEIGHT - 10, class: `commit ${series}` });
    const texts = wrapped(group.words, room).map((line, number, lines) => {
      const lane = lines.length > 1 ? number : freeLane(ends, x);
      const start = Math.max(x, ends[lane]);
      if (start > x + 120) return null;  // it would be far from its time; the title has it
      ends[lane] = start + textWidth(line) + 10;
      return vector("text", { x: start + 3, y: y + lane * LANE_HEIGHT, class: `word ${series}` }, line);
    });
    return vector("g", {}, vector("title", {}, title), tick, ...texts.filter(Boolean));
  });
  return { groups: drawn, end: Math.max(...ends) };
}
function freeLane(ends, x) {
  const free = ends.findIndex((end) => end <= x);
  return free >= 0 ? free : ends.indexOf(Math.min(...ends));
}
/** Join words into at most three lines, of about equal width, where one does not fit. */
function wrapped(words, room) {
  const glue = browser.unit === "char" ? "" : " ", whole = words.join(glue);
  const count = Math.min(LANES, words.length, Math.max(1, Math.ceil(textWidth(whole) / room)));
  const lines = [];
  for (const word of words) {
    const last = lines.at(-1);
    if (last !== undefined && (lines.length === count || textWidth(last + word) <= textWidth(whole) / count + 8)) lines[lines.length - 1] = last + glue + word;
    else lines.push(word);
  }
  return lines;
}
function textWidth(text) {
  let width = 0;
  for (const char of text) width += char.codePointAt(0) >= 0x2e80 ? 14 : 7.6;
  return width;
}
function vector(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const instances = document.getElementById("instances");
if (browser.instances.length) showBrowser(instances);
else instances.append(element("p", { class: "muted" }, "The result has no steps of instances."));
