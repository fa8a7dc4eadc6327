// The page of an evaluation: curves with a choice of axes.
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
/** A ring around each point that was tuned, with its budgets. */
function tunedRings(xOf, yOf) {
  return data.cells.filter((cell) => cell.tuned && xOf(cell) != null && yOf(cell) != null)
    .map((cell, index) => ({ label: `${cell.label}: tuned on dev for ${cell.tuned}`, line: false, hollow: true, radius: 10,
      color: "text", symbol: SYMBOLS[index % 4],
      points: [{ x: xOf(cell), y: yOf(cell), title: cell.label, lines: [`tuned on dev for ${cell.tuned}`, ...pointLines(cell)] }] }));
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

let curves = null, recolorCurves = null;
function drawQuality() {
  const quality = qualitySelect.value, latency = latencySelect.value;
  if (curves) {
    curves.destroy();
    themeListeners.splice(themeListeners.indexOf(recolorCurves), 1);
  }
  const figure = document.getElementById("curves");
  figure.replaceChildren();
  const xOf = (cell) => cell.values[latency], yOf = (cell) => cell.values[quality];
  const series = curveSeries(xOf, yOf, (cell) => cell.intervals[latency], (cell) => cell.intervals[quality]);
  curves = drawCurves(figure, [...series, ...tunedRings(xOf, yOf)],
    { x: `${latency} (ms)`, y: quality, level: offlineLevels(quality),
      description: `${quality} over ${latency}; the values are in the table of cells` });
  recolorCurves = themeListeners.at(-1);
}
const [qualityLabel, qualitySelect] = choice("Quality", data.qualities, drawQuality);
const [latencyLabel, latencySelect] = choice("Latency", data.latencies, drawQuality);
document.getElementById("axes").append(qualityLabel, latencyLabel);

/** Hide the section of a chart that would show nothing. */
function hideSection(figure) {
  document.getElementById(figure).closest("section").hidden = true;
}
const streaming = data.cells.filter((cell) => cell.kind === "streaming");
const [quality] = data.qualities, [latency] = data.latencies;
if (streaming.length) drawQuality();
else hideSection("curves");
if (new Set(streaming.map((cell) => cell.chunk)).size > 1) {
  drawCurves(document.getElementById("by-chunk"),
    curveSeries((cell) => cell.chunk, (cell) => cell.kind === "limit" ? null : cell.values[quality], null,
      (cell) => cell.intervals[quality]),
    { x: "chunk k (ms)", y: quality, level: offlineLevels(quality), description: `${quality} by chunk length` });
} else hideSection("by-chunk");
if (streaming.some((cell) => cell.values.NE)) {
  drawCurves(document.getElementById("erasure"),
    curveSeries((cell) => cell.values[latency], (cell) => cell.kind === "limit" ? null : cell.values.NE, null,
      (cell) => cell.intervals.NE),
    { x: `${latency} (ms)`, y: "normalised erasure", yMin: 0, description: "Normalised erasure by latency" });
} else hideSection("erasure");
