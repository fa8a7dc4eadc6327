// The page of an evaluation: curves with a choice of axes, and instances with a replay.
"use strict";

/** Group points of the streaming cells, and of the limit, by series. */
function curveSeries(xOf, yOf, xInterval, yInterval) {
  const groups = new Map();
  for (const cell of data.cells) {
    if (cell.kind === "offline") continue;
    const x = xOf(cell), y = yOf(cell);
    if (x === null || x === undefined || y === null || y === undefined) continue;
    if (!groups.has(cell.series)) {
      const limit = cell.kind === "limit";
      groups.set(cell.series, { label: cell.series, points: [], dashed: limit, symbol: limit ? "star" : undefined,
        color: limit ? "text" : undefined });
    }
    groups.get(cell.series).points.push({ x, y, xInterval: xInterval?.(cell), yInterval: yInterval?.(cell),
      title: cell.label, lines: pointLines(cell) });
  }
  for (const { points } of groups.values()) points.sort((one, two) => one.x - two.x);
  return [...groups.values()];
}
function pointLines(cell) {
  return Object.entries(cell.values).filter(([name]) => data.qualities.includes(name) || data.latencies.includes(name))
    .slice(0, 6).map(([name, value]) => {
      const bounds = cell.intervals[name];
      const digits = data.qualities.includes(name) ? 2 : 0;
      return `${name} ${formatNumber(value, digits)}`
        + (bounds ? ` [${formatNumber(bounds[0], digits)}, ${formatNumber(bounds[1], digits)}]` : "");
    });
}
function offlineLevels(quality) {
  return data.cells.filter((cell) => cell.kind === "offline" && cell.values[quality] !== undefined)
    .map((cell) => ({ label: cell.label, y: cell.values[quality] }));
}
function choice(label, names, onchange) {
  const select = element("select", { onchange }, ...names.map((name) => element("option", { value: name }, name)));
  return [element("label", {}, label, select), select];
}

let curves = null;
function drawQuality() {
  const quality = qualitySelect.value, latency = latencySelect.value;
  curves?.destroy();
  themeListeners.length = keptListeners;
  const figure = document.getElementById("curves");
  figure.replaceChildren();
  curves = drawCurves(figure,
    curveSeries((cell) => cell.values[latency], (cell) => cell.values[quality],
      (cell) => cell.intervals[latency], (cell) => cell.intervals[quality]),
    { x: `${latency} (ms)`, y: quality, level: offlineLevels(quality),
      description: `${quality} over ${latency}; the values are in the table of cells` });
}
const [qualityLabel, qualitySelect] = choice("Quality", data.qualities, drawQuality);
const [latencyLabel, latencySelect] = choice("Latency", data.latencies, drawQuality);
document.getElementById("axes").append(qualityLabel, latencyLabel);

const streaming = data.cells.some((cell) => cell.kind === "streaming");
if (streaming) {
  const quality = data.qualities[0];
  drawCurves(document.getElementById("by-chunk"),
    curveSeries((cell) => cell.chunk, (cell) => cell.kind === "limit" ? null : cell.values[quality], null,
      (cell) => cell.intervals[quality]),
    { x: "chunk k (ms)", y: quality, level: offlineLevels(quality), description: `${quality} by chunk length` });
  if (data.cells.every((cell) => !cell.values.NE)) document.getElementById("erasure").parentElement.hidden = true;
  else drawCurves(document.getElementById("erasure"),
    curveSeries((cell) => cell.values[data.latencies[0]], (cell) => cell.kind === "limit" ? null : cell.values.NE, null,
      (cell) => cell.intervals.NE),
    { x: `${data.latencies[0]} (ms)`, y: "normalised erasure", description: "Normalised erasure by latency" });
}
const keptListeners = themeListeners.length;
drawQuality();

// Instances

const box = document.getElementById("instances");
if (!data.instances.length) box.append(element("p", { class: "muted" }, "The result has no steps of instances."));
else showBrowser();

function showBrowser() {
  box.replaceChildren();
  const shownCells = [...new Set(data.instances.flatMap((one) => Object.keys(one.cells)))].map(Number)
    .sort((one, two) => one - two);
  const kinds = [...new Set(data.instances.flatMap((one) => one.kinds))];
  const names = shownCells.map((number) => data.cells[number].label);
  const first = shownCells.find((number) => data.cells[number].kind === "streaming") ?? shownCells[0];
  const second = shownCells.filter((number) => data.cells[number].kind === "streaming").at(-1) ?? first;
  const state = { instance: data.instances.find(({ kinds }) => kinds.includes("random")) ?? data.instances[0], left: first, right: second === first ? null : second, kind: "all", text: "" };

  const cellSelect = (label, key, optional) => {
    const select = element("select", { onchange: () => { state[key] = select.value === "" ? null : Number(select.value); show(); } },
      ...(optional ? [element("option", { value: "" }, "none")] : []),
      ...shownCells.map((number, index) => element("option", { value: number, selected: number === state[key] }, names[index])));
    return element("label", {}, label, select);
  };
  const kindSelect = element("select", { onchange: () => { state.kind = kindSelect.value; list(); } },
    ...["all", ...kinds].map((kind) => element("option", { value: kind }, kind)));
  const search = element("input", { type: "search", oninput: () => { state.text = search.value.toLowerCase(); list(); } });
  const rows = element("tbody");
  const count = element("p", { class: "note", role: "status" });
  const headNames = ["instance", "LAAL ms", "chrF", "erased", "seconds", "reference"];
  const table = element("table", { class: "sortable" }, element("thead", {}, element("tr", {},
    ...headNames.map((name, index) => element("th", { scope: "col", class: index > 0 && index < 5 ? "number" : null }, name)))),
    rows);
  const detail = element("div", { id: "detail" });
  box.append(
    element("div", { class: "controls" }, cellSelect("System A", "left", false), cellSelect("System B", "right", true),
      element("label", {}, "Show", kindSelect), element("label", {}, "Search", search)),
    count,
    element("div", { class: "scroll list", tabindex: "0", role: "region", "aria-label": "Instances" }, table), detail);
  makeSortable(table);
  list();
  show();

  function matches(one) {
    const texts = [one.id, one.reference ?? "", ...Object.values(one.cells).map(({ text }) => text)];
    return (state.kind === "all" || one.kinds.includes(state.kind))
      && (!state.text || texts.some((text) => text.toLowerCase().includes(state.text)));
  }
  function list() {
    const found = data.instances.filter(matches);
    count.textContent = `${found.length} of ${data.instances.length} shown instances; values of system A.`;
    rows.replaceChildren(...found.map((one) => {
      const cell = one.cells[state.left] ?? {};
      const value = (number, digits) => element("td", { class: "number", "data-value": number ?? "" }, formatNumber(number, digits));
      const open = element("button", { type: "button", onclick: () => select(one) }, one.id);
      return element("tr", { "aria-selected": String(one === state.instance), "data-id": one.id }, element("td", {}, open),
        value(cell.LAAL, 0), value(cell.chrF, 1), value(cell.erased, 0), value(one.seconds, 1), element("td", {}, (one.reference ?? "–").slice(0, 200)));
    }));
  }
  function select(one) {
    state.instance = one;
    for (const row of rows.rows) row.setAttribute("aria-selected", String(row.dataset.id === one.id));
    show();
    detail.scrollIntoView({ block: "nearest" });
  }
  function show() {
    list();
    detail.replaceChildren(showInstance(state.instance, [state.left, state.right].filter((number) => number !== null)));
  }
}

/** An instance in one or two systems: the replay, the time line and the differences from the reference. */
function showInstance(one, numbers) {
  const seconds = one.shown_seconds ?? one.seconds;
  const clock = makeClock(one, seconds);
  const systems = numbers.filter((number) => one.cells[number]).map((number) => systemView(one, number));
  const timeline = drawTimeline(one, numbers.filter((number) => one.cells[number]), seconds, clock);
  clock.listen((now) => {
    for (const system of systems) system.update(now * 1000);
    timeline.update(now);
  });
  clock.set(seconds);
  return element("article", {},
    element("h3", {}, one.id, " ", element("span", { class: "muted" }, one.kinds.join(", "))),
    clock.controls,
    one.note ? element("p", { class: "note" }, one.note) : null,
    one.shown_seconds && one.shown_seconds < one.seconds
      ? element("p", { class: "note" }, `The first ${one.shown_seconds} of ${one.seconds.toFixed(0)} seconds.`) : null,
    timeline.view,
    element("p", { class: "note" }, "Above: the audio. Below: each word when it was committed; triangles: text was taken back. A click moves the replay."),
    element("div", { class: "charts" }, ...systems.map(({ view }) => view)),
    element("p", {}, element("b", {}, "Reference: "), referenceText(one)));
}
function referenceText(one) {
  if (!one.segments.length) return one.reference ?? "–";
  return one.segments.filter(([start]) => start < (one.shown_seconds ?? Infinity)).map(([, , text]) => text).join(" ");
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

/** What a system shows at a time, and at the end how it differs from the reference. */
function systemView(one, number) {
  const cell = one.cells[number];
  const screen = element("div", { class: "screen", tabindex: "0", role: "region", "aria-label": `Text of ${data.cells[number].label}`,
    "data-cell": number });
  const facts = `LAAL ${formatNumber(cell.LAAL, 0)} ms, chrF ${formatNumber(cell.chrF, 1)}, ${cell.erased} units taken back`
    + (cell.truncated ? ", truncated" : "");
  const view = element("section", { class: "system" }, element("h3", {}, data.cells[number].label),
    element("p", { class: "note" }, data.long_form ? `${cell.erased} units taken back` : facts), screen,
    ...(data.long_form ? [] : [element("p", { class: "diff" }, element("b", {}, "Against the reference: "), ...difference(cell.text, one.reference ?? ""))]));
  let before = "";
  function update(ms) {
    const parts = [];
    for (const session of cell.sessions) {
      let last = null;
      for (const step of session) if (step[0] <= ms + 0.5) last = step;
      if (last) parts.push(last);
    }
    const committed = parts.slice(0, -1).map(([, text]) => text).concat(parts.length ? [parts.at(-1)[1].slice(0, parts.at(-1)[2])] : []).join(" ");
    const open = parts.length ? parts.at(-1)[1].slice(parts.at(-1)[2]) : "";
    const text = committed + open;
    const removed = before.startsWith(text) || !before ? "" : before.slice(commonLength(before, text));
    screen.replaceChildren(element("span", { class: "committed" }, committed), element("span", { class: "open" }, open),
      ...(removed && ms > 0 && before.length > text.length ? [element("del", {}, removed)] : []));
    screen.scrollTop = screen.scrollHeight;
    before = text;
  }
  return { view, update };
}
function commonLength(one, two) {
  let length = 0;
  while (length < one.length && one[length] === two[length]) length += 1;
  return length;
}

/** Words of a text against a reference: <del> for what the reference has more, <ins> for what the text has more. */
function difference(text, reference) {
  const a = reference.split(/\s+/).filter(Boolean), b = text.split(/\s+/).filter(Boolean);
  const table = Array.from({ length: a.length + 1 }, () => new Int32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1)
    for (let j = b.length - 1; j >= 0; j -= 1)
      table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  const nodes = [];
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { nodes.push(`${a[i]} `); i += 1; j += 1; }
    else if (j < b.length && (i === a.length || table[i][j + 1] >= table[i + 1][j])) { nodes.push(element("ins", {}, b[j]), " "); j += 1; }
    else { nodes.push(element("del", {}, a[i]), " "); i += 1; }
  }
  return nodes;
}

/** Time from left to right: the audio, its reference segments, and each word of a system where it was committed. */
function drawTimeline(one, numbers, seconds, clock) {
  const scale = Math.max(90, 640 / Math.max(seconds, 0.1));
  const rowHeight = 76, width = seconds * scale + 300, height = 34 + numbers.length * rowHeight;
  const svg = vector("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
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
  numbers.forEach((number, row) => {
    const top = 34 + row * rowHeight;
    const ends = [0, 0, 0];  // of the text in each of three lines
    let previous = null;
    for (const [word, ms] of one.cells[number].words) {
      const x = (ms / 1000) * scale;
      if (ms / 1000 > seconds + 0.001) break;
      let line = ends.findIndex((end) => end <= x);
      const placed = line >= 0;
      if (!placed) line = ends.indexOf(Math.min(...ends));
      const start = Math.max(x, ends[line]);
      if (start + 8 * word.length < x + 260 || placed) {
        svg.append(vector("text", { x: start + 3, y: top + 22 + line * 17, class: `word series-${row}` }, word));
        ends[line] = start + 8.2 * word.length + 8;
      }
      if (ms !== previous) svg.append(vector("line", { x1: x, x2: x, y1: top + 6, y2: top + rowHeight - 12, class: `commit series-${row}` }));
      previous = ms;
    }
  });
  numbers.forEach((number, row) => {
    for (const ms of revisions(one.cells[number]).filter((time) => time / 1000 <= seconds)) {
      svg.append(vector("path", { d: `M ${(ms / 1000) * scale - 4} ${34 + (row + 1) * rowHeight - 6} l 4 -7 l 4 7 z`,
        class: `revision series-${row}` }, vector("title", {}, `${ms} ms: text was taken back`)));
    }
  });
  const head = vector("line", { x1: 0, x2: 0, y1: 0, y2: height, class: "playhead" });
  svg.append(head);
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
/** Times (ms) of the steps that took displayed text back. */
function revisions(cell) {
  const times = [];
  for (const session of cell.sessions)
    session.forEach(([ms, text], index) => { if (index && !text.startsWith(session[index - 1][1])) times.push(ms); });
  return times;
}
function vector(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
