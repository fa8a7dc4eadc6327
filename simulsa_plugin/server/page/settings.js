// What may be chosen before a stream begins, from what the server says about itself.

const OTHER = "";  // of the select: an operating point that the recipe does not name
const byId = (id) => document.getElementById(id);

export class Settings {
  constructor(system) {
    this.system = system;
    byId("model").textContent = system.model;
    const points = Object.entries(system.points).map(([name, point]) => option(name, pointLabel(point)));
    byId("point").replaceChildren(...points, option(OTHER, "Other …"));
    byId("point").value = system.default_point;
    byId("policy").replaceChildren(...Object.keys(system.policies).map((name) => option(name, name.replaceAll("_", " "))));
    byId("chunk").value = system.points[system.default_point].chunk_ms;
    byId("point").addEventListener("change", () => this.#update());
    byId("policy").addEventListener("change", () => this.#showParameters());
    byId("languages").hidden = !system.languages;
    byId("source-language").value = system.languages?.source ?? "";
    byId("target-language").value = system.languages?.target ?? "";
    this.#showParameters();
    this.#update();
  }

  #update() {
    byId("own-point").hidden = byId("point").value !== OTHER;
  }

  #showParameters() {
    const parameters = Object.entries(this.system.policies[byId("policy").value]);
    byId("parameters").replaceChildren(...parameters.map(([key, value]) => element("label", {},
      key.replace("simulsa_", "").replaceAll("_", " "),
      element("input", { type: "number", step: "any", "data-key": key, value }))));
  }

  /** The request of a stream, for the server; it checks the values. */
  request(sampleRate) {
    const simulsa = { skip_late: true };  // a live listener wants what is said now
    if (byId("point").value !== OTHER) simulsa.point = byId("point").value;
    else simulsa.keys = this.#keys();
    return {
      sample_rate: sampleRate,
      source_lang: byId("source-language").value.trim(),
      target_lang: byId("target-language").value.trim(),
      simulsa,
    };
  }

  #keys() {
    const inputs = [...byId("parameters").querySelectorAll("input")];
    return {
      simulsa_policies: byId("policy").value,
      simulsa_chunks: Number(byId("chunk").value),
      ...Object.fromEntries(inputs.map((input) => [input.dataset.key, Number(input.value)])),
    };
  }

  /** Settings stay during a stream. */
  set locked(locked) {
    for (const id of ["source", "file", "point", "own-point", "languages"]) byId(id).disabled = locked;
  }
}

function option(value, text) {
  return element("option", { value }, text);
}

/** Name an operating point: "confidence, 500 ms, threshold 0.99". */
function pointLabel({ policy, chunk_ms: chunk, ...parameters }) {
  const isShown = ([name, value]) => !(name === "rollback" && value === 0 && policy !== "rollback");
  const parts = Object.entries(parameters).filter(isShown)
    .map(([name, value]) => `${name.replace(`${policy}_`, "").replaceAll("_", " ")} ${value}`);
  return [policy.replaceAll("_", " "), `${chunk} ms`, ...parts].join(", ");
}
