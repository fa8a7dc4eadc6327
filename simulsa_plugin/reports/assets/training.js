// The page of a training: metrics over its steps, and quality over latency at the last evaluations.
"use strict";

for (const { series, y, description } of data.metrics) {
  const figure = element("figure", {}, element("figcaption", {}, y));
  document.getElementById("over-steps").append(figure);
  drawCurves(figure, series, { x: "training step", y, description });
}
drawCurves(document.getElementById("curves"), data.curves,
  { x: "LAAL (ms)", y: "BLEU", description: "BLEU over LAAL of the streaming cells; the table has the values" });
