// The page of a comparison: a chart for every quality.
"use strict";

for (const { series, axes } of data.charts) {
  const figure = element("figure", {}, element("figcaption", {}, `${axes.y} over ${axes.x}`));
  document.getElementById("curves").append(figure);
  drawCurves(figure, series.map((one) => ({ ...one, symbol: SYMBOLS[one.symbol % SYMBOLS.length] })), axes);
}
