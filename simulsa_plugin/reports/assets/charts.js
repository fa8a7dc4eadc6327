// Charts of quality over latency and the like, by Chart.js, in the colours of the theme.
"use strict";

Chart.defaults.plugins.colors.enabled = false; // the theme has its own
Chart.defaults.font.size = 13;
Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;

const SYMBOLS = ["circle", "rect", "triangle", "rectRot", "crossRot", "star", "rectRounded", "cross"];

/** Draw 95 % intervals as bars through the points; a point has `xInterval` and `yInterval`, [low, high] or null. */
const intervalBars = {
  id: "intervalBars",
  beforeDatasetsDraw(chart) {
    const { ctx, scales: { x, y } } = chart;
    ctx.save();
    ctx.beginPath();
    ctx.rect(chart.chartArea.left, chart.chartArea.top, chart.chartArea.width, chart.chartArea.height);
    ctx.clip();
    ctx.lineWidth = 1;
    chart.data.datasets.forEach((series, index) => {
      if (!chart.isDatasetVisible(index)) return;
      ctx.strokeStyle = series.borderColor;
      ctx.globalAlpha = 0.55;
      for (const point of series.data) {
        if (point.yInterval) drawLine(ctx, x.getPixelForValue(point.x), y.getPixelForValue(point.yInterval[0]),
          x.getPixelForValue(point.x), y.getPixelForValue(point.yInterval[1]));
        if (point.xInterval) drawLine(ctx, x.getPixelForValue(point.xInterval[0]), y.getPixelForValue(point.y),
          x.getPixelForValue(point.xInterval[1]), y.getPixelForValue(point.y));
      }
    });
    ctx.restore();
  },
};
function drawLine(ctx, fromX, fromY, toX, toY) {
  ctx.beginPath();
  ctx.moveTo(fromX, fromY);
  ctx.lineTo(toX, toY);
  ctx.stroke();
}

/**
 * Draw lines through points, zoomable by dragging; a double click, or the button, shows everything again.
 *
 * @param figure  element into which the chart comes, and its legend: a button per line, which hides and shows it.
 * @param series  list of {label, points: [{x, y, xInterval, yInterval, title, lines}], dashed, color, symbol, radius,
 *                line, hollow}; `title` and `lines` are shown at a point.
 * @param axes    {x: label, y: label, description} and, optional, `level`: [{label, y, color}] for horizontal lines, `yMin`.
 */
function drawCurves(figure, series, axes) {
  const canvas = element("canvas", { role: "img", "aria-label": axes.description });
  const reset = element("button", { type: "button", onclick: showAll, hidden: true }, "Show all");
  const legend = element("div", { class: "legend", role: "group", "aria-label": "Lines of the chart" });
  const intervals = series.some(({ points }) => points.some((point) => point.xInterval || point.yInterval));
  figure.append(
    element("div", { class: "chart" }, canvas), legend,
    element("div", { class: "controls" }, reset, element("span", { class: "note" },
      `Drag to zoom; a click on a name hides its line.${intervals ? " Bars: 95 % intervals." : ""}`)),
  );
  const all = [...series, ...(axes.level ?? []).map(({ y, ...one }) => ({ ...one, level: y }))];
  const chart = new Chart(canvas, {
    type: "scatter",
    data: { datasets: all.map((one, index) => dataset(one, index, series)) },
    options: chartOptions(axes, all, () => { reset.hidden = !chart.isZoomedOrPanned(); }),
    plugins: [intervalBars],
  });
  function showAll() {
    chart.resetZoom();
    reset.hidden = true;
  }
  canvas.addEventListener("dblclick", showAll);
  const swatches = all.map((_, index) => legendEntry(legend, chart, index));
  return followTheme(chart, () => {
    all.forEach((one, index) => Object.assign(chart.data.datasets[index], colors(one, index)));
    swatches.forEach((draw) => draw());
  });
}
/** Append the button of a line to a legend; returns what draws its sample of the line, in the colours of the theme. */
function legendEntry(legend, chart, index) {
  const one = chart.data.datasets[index];
  const width = 30, height = 14, sharpness = 2;
  const swatch = element("canvas", { width: width * sharpness, height: height * sharpness, "aria-hidden": "true" });
  const button = element("button", { type: "button", "aria-pressed": "true", onclick: () => {
    const visible = !chart.isDatasetVisible(index);
    chart.setDatasetVisibility(index, visible);
    button.setAttribute("aria-pressed", String(visible));
    chart.update();
  } }, swatch, one.label);
  legend.append(button);
  return () => {
    const ctx = swatch.getContext("2d");
    ctx.setTransform(sharpness, 0, 0, sharpness, 0, 0);
    ctx.clearRect(0, 0, width, height);
    ctx.strokeStyle = one.borderColor;
    ctx.fillStyle = one.pointBackgroundColor ?? one.backgroundColor;
    ctx.lineWidth = 1.5;
    if (one.showLine) {
      ctx.setLineDash(one.borderDash);
      drawLine(ctx, 0, height / 2, width, height / 2);
      ctx.setLineDash([]);
    }
    if (one.pointRadius) Chart.helpers.drawPoint(ctx, { pointStyle: one.pointStyle, radius: Math.min(6, one.pointRadius), rotation: 0, borderWidth: 1.5 }, width / 2, height / 2);
  };
}
/** Colour a chart now and at every change of the theme; `colorData` does its data, the rest is the same for all. */
function followTheme(chart, colorData) {
  const recolor = () => {
    colorData();
    for (const axis of [chart.options.scales.x, chart.options.scales.y]) colorAxis(axis);
    if (chart.options.plugins.legend.labels) chart.options.plugins.legend.labels.color = color("text");
    chart.update(); // not "none": with animations off, that leaves points and bars as they were
  };
  themeListeners.push(recolor);
  recolor();
  return chart;
}
function colors(one, index) {
  const shade = one.color ? color(one.color) : one.level !== undefined ? color("muted") : color(`series-${index % 8}`);
  return { borderColor: shade, backgroundColor: shade };
}
/** After eight series the colours come again, each with another symbol. */
function symbol(index) {
  return SYMBOLS[(index + Math.floor(index / SYMBOLS.length)) % SYMBOLS.length];
}
function dataset(one, index, series) {
  if (one.level !== undefined) {
    const xs = series.flatMap(({ points }) => points.map(({ x }) => x));
    const ends = [Math.min(...xs), Math.max(...xs)];
    return { label: one.label, data: ends.map((x) => ({ x, y: one.level })), showLine: true, borderDash: [6, 4],
      pointRadius: 0, pointStyle: "line", borderWidth: 1.5 };
  }
  return { label: one.label, data: one.points, showLine: one.line !== false, borderDash: one.dashed ? [2, 3] : [],
    pointBackgroundColor: one.hollow ? "transparent" : undefined, pointStyle: one.symbol ?? symbol(index),
    pointRadius: one.radius ?? 5, pointHoverRadius: one.radius ?? 8, borderWidth: 1.5, clip: 12 }; // a point on the edge is drawn whole
}
/** From the lowest to the highest value of an axis: points, the ends of their intervals, levels. */
function axisRange(all, axis) {
  const values = all.flatMap(({ points, level }) => points?.map((point) => point[axis]) ?? (axis === "y" ? [level] : []));
  const intervals = all.flatMap(({ points }) => points?.flatMap((point) => point[`${axis}Interval`] ?? []) ?? []);
  const lowest = Math.min(...values) < 0 ? -Infinity : 0; // no half of a chart for an interval that begins at -11 ms
  const ends = [...values, ...intervals.map((end) => Math.max(lowest, end))];
  const afterDataLimits = (scale) => { scale.max = Number(scale.max.toPrecision(12)); }; // 100.00000000000001: no axis to 120
  if (!ends.length) return {};
  const low = Math.min(...ends), high = Math.max(...ends);
  return { suggestedMin: low === high && low > 0 ? 0 : low, suggestedMax: high, afterDataLimits };
}
function chartOptions(axes, all, onZoomComplete) {
  return {
    animation: false,
    maintainAspectRatio: false,
    scales: {
      x: { type: "linear", ...axisRange(all, "x"), title: { display: true, text: axes.x }, ticks: { maxRotation: 0 }, grid: {} },
      y: { type: "linear", min: axes.yMin, ...axisRange(all, "y"), title: { display: true, text: axes.y }, ticks: {}, grid: {} },
    },
    plugins: {
      legend: { display: false }, // drawn beside it, of buttons
      tooltip: { callbacks: {
        title: (items) => items[0].raw.title ?? items[0].dataset.label,
        label: (item) => item.raw.lines ?? `${formatNumber(item.raw.y)} @ ${formatNumber(item.raw.x, 0)}`,
      } },
      zoom: { zoom: { drag: { enabled: true }, mode: "xy", onZoomComplete } },
    },
  };
}
function colorAxis(axis) {
  axis.title.color = axis.ticks.color = color("text");
  axis.grid.color = color("line");
}

/** Draw bars for bins, and a line for what was wanted; `bins`: [{label, value, wanted}]. */
function drawBars(figure, bins, axes) {
  const canvas = element("canvas", { role: "img", "aria-label": axes.description });
  figure.append(element("div", { class: "chart" }, canvas));
  const line = bins.some(({ wanted }) => wanted !== undefined && wanted !== null)
    ? [{ type: "line", label: axes.wanted, data: bins.map(({ wanted }) => wanted), pointRadius: 3, borderWidth: 1.5 }]
    : [];
  const chart = new Chart(canvas, {
    data: {
      labels: bins.map(({ label }) => label),
      datasets: [...line, { type: "bar", label: axes.value, data: bins.map(({ value }) => value) }],
    },
    options: {
      animation: false,
      maintainAspectRatio: false,
      scales: {
        x: { title: { display: true, text: axes.x }, ticks: {}, grid: { display: false } },
        y: { title: { display: true, text: axes.y }, ticks: {}, grid: {}, beginAtZero: true },
      },
      plugins: { legend: { position: "bottom", labels: {} } },
    },
  });
  return followTheme(chart, () => {
    chart.data.datasets.forEach((one) => {
      one.borderColor = one.backgroundColor = color(one.type === "line" ? "series-1" : "series-0");
    });
  });
}
