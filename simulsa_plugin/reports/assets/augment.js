// Samples of a run of simulsa-augment, decided again here by the rules of `simulsa-augment --from-scores`.
"use strict";

const LOWEST_LOG10 = -8; // of the bars and of the sliders
const KIND_NAMES = {
  all: "all", empty: "empty", whole: "whole reference", over: "longer than the audio supports",
  near: "near the threshold", random: "random", changed: "decided differently from the run",
};
const RULE_NAMES = {
  threshold: "threshold: p ≥ τ", greedy: "greedy: the most probable token",
  ratio: "ratio: p(cut) / p(full)", lookback: "lookback: p ≥ τ on earlier audio",
};
const choice = { ...data.choice };

/** What a rule compares with its bound, token by token, as natural logarithms; null for greedy, or if not scored. */
function comparedValues(row, chosen) {
  if (chosen.acceptance === "greedy") return null;
  if (chosen.acceptance === "lookback") return row.lookback;
  if (chosen.acceptance !== "ratio") return row.logprobs;
  const floor = Math.log(chosen.ratio_floor);
  return row.full && row.logprobs.map((cut, index) => cut - Math.max(row.full[index], floor));
}
function bound(chosen) {
  return chosen.acceptance === "ratio" ? chosen.ratio_threshold : chosen.threshold;
}
function firstRefused(row, chosen) {
  if (chosen.acceptance === "greedy") return row.best.indexOf(0);
  const limit = Math.log(bound(chosen));
  return comparedValues(row, chosen).findIndex((value) => value < limit);
}
/** Count the accepted tokens: those before the first refused one, back to where a partial translation may end. */
function acceptedTokens(row, chosen) {
  const refused = firstRefused(row, chosen);
  let count = refused === -1 ? row.texts.length : refused;
  const needed = chosen.boundary === "word" ? 2 : 1;
  while (count > 0 && row.ends[count - 1] < needed) count -= 1;
  return count;
}
function isScored(rule) {
  const field = { greedy: "best", ratio: "full", lookback: "lookback" }[rule] ?? "logprobs";
  return data.samples.every((row) => Array.isArray(row[field]));
}
function verdict(row, count) {
  if (!row.over) return null;
  return row.over[count] ? "over" : row.under[count] ? "under" : "exact";
}
/** The command that decides so over the whole run. */
function decisionCommand(chosen) {
  const keys = { threshold: ["threshold"], greedy: [], ratio: ["ratio_threshold", "ratio_floor"],
    lookback: ["threshold", "lookback_ms"] }[chosen.acceptance];
  const words = keys.filter((key) => chosen[key] !== null).map((key) => `simulsa_${key}=${chosen[key]}`);
  return ["simulsa-augment --from-scores", data.scores, `simulsa_acceptance=${chosen.acceptance}`, ...words,
    `simulsa_boundary=${chosen.boundary}`, ...data.other_keys, "--out OTHER"].join(" ");
}
function probabilityText(value) {
  if (value >= 0.995) return value > 1.005 ? value.toPrecision(2) : "1";
  return value >= 0.01 ? value.toFixed(2) : value.toExponential(0);
}
function share(count, of) {
  return of ? `${Math.round(100 * count / of)}%` : "–";
}
/** Where a natural logarithm stands between the bottom and the top of a bar. */
function height(logValue) {
  return Math.min(1, Math.max(0, 1 - logValue / Math.LN10 / LOWEST_LOG10));
}

// The controls.
function option(value, label, selected) {
  return element("option", { value, selected: value === selected }, label);
}
function labelled(label, control) {
  return element("label", {}, label, control);
}
function logSlider(key, label, highest) {
  const number = element("input", { type: "number", id: key, step: "any", min: "0", value: choice[key], "aria-label": label });
  const slider = element("input", { type: "range", id: `${key}-slider`, min: LOWEST_LOG10, max: Math.log10(highest),
    step: 0.01, value: Math.log10(choice[key]), "aria-label": `${label}, logarithmic` });
  slider.addEventListener("input", () => {
    choice[key] = Number((10 ** Number(slider.value)).toPrecision(3));
    number.value = choice[key];
    update();
  });
  number.addEventListener("input", () => {
    const value = Number(number.value);
    if (!(value > 0 && value <= highest)) return;
    choice[key] = value;
    slider.value = Math.log10(value);
    update();
  });
  const describe = () => {
    slider.setAttribute("aria-valuetext", String(choice[key]));
  };
  return { key, part: element("div", { class: "slider", "data-key": key }, labelled(label, number), slider), describe,
    reset() { number.value = choice[key]; slider.value = Math.log10(choice[key]); } };
}
const sliders = [logSlider("threshold", "threshold τ", 1), logSlider("ratio_threshold", "smallest ratio", 10),
  logSlider("ratio_floor", "floor of p(full)", 1)];
const usedBy = { threshold: ["threshold", "lookback"], ratio_threshold: ["ratio"], ratio_floor: ["ratio"] };
const kindControl = element("select", { id: "kind", onchange: showKind });
const ruleControl = element("select", { id: "rule", onchange: () => { choice.acceptance = ruleControl.value; update(); } },
  ...data.rules.map((rule) => {
    const made = option(rule, isScored(rule) ? RULE_NAMES[rule] ?? rule : `${rule} (not scored)`, choice.acceptance);
    made.disabled = !isScored(rule);
    return made;
  }));
const boundaryControl = element("select", { id: "boundary", onchange: () => { choice.boundary = boundaryControl.value; update(); } },
  option("token", "any token", choice.boundary), option("word", "a whole word", choice.boundary));
const resetControl = element("button", { type: "button", id: "reset", onclick: () => {
  Object.assign(choice, data.choice);
  ruleControl.value = choice.acceptance;
  boundaryControl.value = choice.boundary;
  sliders.forEach((one) => one.reset());
  update();
} }, "Reset to the run");
const summary = element("p", { id: "summary", role: "status" });
const command = element("code", { id: "command" });

// One article for each sample.
function player(label, address, missing) {
  if (address === undefined) return element("p", { class: "note" }, `${label}: left out, to keep the page small.`);
  if (address === null) return missing ? element("p", { class: "note" }, `${label}: ${missing}`) : null;
  return element("div", { class: "player" }, element("span", { class: "note" }, label),
    element("audio", { controls: true, preload: "metadata", src: address, "aria-label": label }));
}
function makeSample(row) {
  const bars = row.texts.map((text, index) => {
    const value = element("span", { class: "value" });
    const bar = element("span", { class: "probability" });
    return { bar, value, box: element("li", { class: index + 1 === row.true_tokens ? "true-end" : null },
      bar, element("span", { class: "token" }, text === "" ? "…" : text), value) };
  });
  const said = element("mark");
  const rest = element("span", { class: "muted" });
  const facts = element("p", { class: "note" });
  const title = row.source_id ? `${row.id} (${row.source_id})` : row.id;
  const cutOff = row.duration - row.cut;
  const article = element("article", { class: "sample", "data-id": row.id },
    element("h3", {}, title), facts,
    element("ol", { class: "strip", "aria-hidden": "true", dir: "auto" }, ...bars.map(({ box }) => box)),
    element("p", { class: "partial", dir: "auto" }, said, rest),
    row.true === undefined ? null : element("p", { class: "note" }, "What the audio supports, by the truth: ",
      row.true === "" ? element("i", {}, "nothing") : element("span", { class: "true-text", dir: "auto" }, row.true)),
    element("div", { class: "players" },
      player(`Heard, ${row.cut.toFixed(2)} s`, row.clip, "the clip is not there."),
      cutOff > 0 ? player(`Cut off, ${cutOff.toFixed(2)} s${cutOff > data.rest_seconds ? ` (the first ${data.rest_seconds})` : ""}`,
        row.rest, "the source cannot be read.") : null));
  return { row, bars, said, rest, facts, article };
}
function updateSample({ row, bars, said, rest, facts }) {
  const count = acceptedTokens(row, choice);
  const values = comparedValues(row, choice) ?? row.logprobs;
  const level = choice.acceptance === "greedy" ? null : height(Math.log(bound(choice)));
  bars.forEach(({ bar, value, box }, index) => {
    const refused = choice.acceptance === "greedy" ? !row.best[index] : values[index] < Math.log(bound(choice));
    box.classList.toggle("accepted", index < count);
    box.classList.toggle("refused", refused);
    bar.style.setProperty("--height", height(values[index]));
    bar.style.setProperty("--level", level ?? 0);
    bar.classList.toggle("levelled", level !== null);
    value.textContent = choice.acceptance === "greedy" && !row.best[index] ? "≠" : probabilityText(Math.exp(values[index]));
    box.title = `${row.texts[index]}\np ${Math.exp(row.logprobs[index]).toPrecision(3)}`
      + (choice.acceptance === "greedy" ? (row.best[index] ? "\nthe most probable" : "\nnot the most probable") : "");
  });
  said.textContent = row.texts.slice(0, count).join("");
  rest.textContent = row.texts.slice(count).join("");
  const judged = verdict(row, count);
  facts.textContent = [
    `heard ${row.cut.toFixed(2)} of ${row.duration.toFixed(2)} s`,
    `accepted ${count} of ${row.texts.length} tokens${count === 0 ? " (empty)" : ""}`
      + (count === row.accepted ? "" : `, ${row.accepted} in the run`),
    { over: `${row.over?.[count]} words too many`, under: `${row.under?.[count]} words too few`,
      exact: "exactly what the truth supports" }[judged],
  ].filter(Boolean).join(" · ");
}
const samples = data.samples.map(makeSample);

function isOfKind(row, kind) {
  if (kind === "all") return true;
  return kind === "changed" ? acceptedTokens(row, choice) !== row.accepted : row.kinds.includes(kind);
}
function showKind() {
  for (const { row, article } of samples) article.hidden = !isOfKind(row, kindControl.value);
}
function update() {
  samples.forEach(updateSample);
  for (const one of sliders) {
    one.part.hidden = !usedBy[one.key].includes(choice.acceptance);
    one.describe();
  }
  const counts = data.samples.map((row) => acceptedTokens(row, choice));
  const tokens = data.samples.reduce((sum, row) => sum + row.texts.length, 0);
  const accepted = counts.reduce((sum, count) => sum + count, 0);
  const whole = data.samples.filter((row, index) => counts[index] === row.texts.length && counts[index] > 0).length;
  const judged = data.samples.map((row, index) => verdict(row, counts[index])).filter((one) => one !== null);
  const of = (name) => judged.filter((one) => one === name).length;
  summary.textContent = [
    `Of the ${data.samples.length} samples shown: ${accepted} of ${tokens} tokens accepted (${share(accepted, tokens)})`,
    `${counts.filter((count) => count === 0).length} empty`, `${whole} whole`,
    judged.length ? `against the truth ${of("over")} over, ${of("exact")} exact, ${of("under")} under` : null,
    `${data.samples.filter((row, index) => counts[index] !== row.accepted).length} decided differently from the run`,
  ].filter(Boolean).join(" · ");
  command.textContent = decisionCommand(choice);
  const kind = kindControl.value || "all";
  const kinds = Object.keys(KIND_NAMES).map((one) => [one, data.samples.filter((row) => isOfKind(row, one)).length]);
  kindControl.replaceChildren(...kinds.filter(([one, many]) => many || one === "all" || one === kind)
    .map(([one, many]) => option(one, `${KIND_NAMES[one]} (${many})`, kind)));
  showKind();
}

const place = document.getElementById("samples");
if (samples.length) {
  place.replaceChildren(
    element("div", { class: "sticky" },
      element("div", { class: "controls" }, labelled("show", kindControl), labelled("rule", ruleControl),
        ...sliders.map(({ part }) => part), labelled("ends after", boundaryControl), resetControl),
      summary),
    element("p", {}, "The command that applies this to the whole run: ", command),
    element("div", { class: "samples" }, ...samples.map(({ article }) => article)));
  update();
} else {
  place.replaceChildren(element("p", {}, "None."));
}

if (data.cuts.length) {
  drawBars(document.getElementById("cuts"), data.cuts, { x: "length of the cut, seconds", y: "samples", value: "samples",
    wanted: "expected from the settings", description: "Samples by length of the cut, beside the expected numbers; the table below has them" });
  drawBars(document.getElementById("shares"), data.shares, { x: "share of the utterance heard, %", y: "accepted tokens, %",
    value: "accepted share of the reference tokens", description: "Accepted share by share heard; the table below has it" });
}
// The date is that of the file: within it, a date would make every run another file.
document.getElementById("changed").textContent = `Date of this file: ${document.lastModified}`;
