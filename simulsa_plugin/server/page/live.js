// The page: start and stop, and what is shown of a stream.
import { Client } from "./client.js";
import { Settings } from "./settings.js";
import { SourceError, openSource } from "./sources.js";
import { Transcript } from "./transcript.js";

const byId = (id) => document.getElementById(id);
const transcript = new Transcript(byId("transcript"), byId("announced"));
let settings = null;
let stream = null;  // { client, source, capturedMs, heardMs, ending }

function tell(text, wrong = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("wrong", wrong);
}

async function loadSystem() {
  const answer = await fetch("system.json");
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function showLoad({ busy, speakers, max_speakers: most }) {
  byId("busy").textContent = `${Math.round(100 * busy)} %`;
  byId("speakers").textContent = `${speakers} of ${most}`;
}

function showState({ audio_ms: audio, heard_ms: heard, late_ms: late, compute_ms: compute, skipped_steps: skipped, load }) {
  const seconds = Math.floor(audio / 1000);
  byId("audio").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  if (heard > stream.heardMs) {  // a step: how old the newest sound was that it heard
    byId("delay").textContent = `${formatNumber(Math.max(0, stream.capturedMs - heard) / 1000, 1)} s`;
    stream.heardMs = heard;
  }
  byId("late").textContent = `${formatNumber(late / 1000, 1)} s`;
  byId("compute").textContent = compute === null ? "–" : `${Math.round(compute)} ms`;
  byId("skipped").textContent = skipped;
  showLoad(load);
}

function showRunning(running) {
  const button = byId("start");
  button.textContent = running ? "Stop" : "Start";
  button.setAttribute("aria-pressed", String(running));
  settings.locked = running;
}

async function start(begun) {
  const kind = byId("source").value;
  if (kind === "file" && !byId("file").files.length) throw new SourceError("Choose a file first.");
  begun.client = new Client({
    onreport(message) {
      transcript.apply(message);
      showState(message.simulsa);
    },
    onend: () => finish(begun, "Finished."),
    onerror: (text) => finish(begun, text, true),
  });
  stream = begun;
  showRunning(true);
  tell(kind === "file" ? "Opening the file …" : "Waiting for the browser’s permission …");
  if (kind === "file") loadFile();
  begun.source = await openSource(kind, byId("player"), {
    onpacket(samples) {
      begun.capturedMs += 1000 * samples.length / begun.source.sampleRate;
      showLevel(samples);
      begun.client.send(samples);
    },
    onend: () => stop(begun),
  });
  if (stream !== begun) return begun.source.stop();  // stopped meanwhile
  await begun.client.open(settings.request(begun.source.sampleRate));
  if (stream !== begun) return begun.source.stop();
  transcript.begin();
  await begun.source.start();
  if (stream === begun) tell("Listening.");
}

/** Each file gets a new player: an element can feed one audio context only. */
function loadFile() {
  const old = byId("player");
  if (old.src) URL.revokeObjectURL(old.src);
  const player = element("audio", { id: "player", controls: true });
  player.src = URL.createObjectURL(byId("file").files[0]);
  old.replaceWith(player);
}

function showLevel(samples) {
  let most = 0;
  for (const sample of samples) most = Math.max(most, Math.abs(sample));
  byId("level").value = most / 32768;
}

/** Let the server translate what it has. */
async function stop(one) {
  if (one.ending) return;
  if (!one.source || !one.client.isOpen) return finish(one, "Stopped.");
  one.ending = true;
  tell("Finishing …");
  await one.source.stop();
  one.client.end();
}

/** A stream is over, by its end or by a mistake; one that was over before changes nothing any more. */
async function finish(one, text, wrong = false) {
  if (stream && one !== stream) return;
  stream = null;
  one.client?.close();
  byId("player").hidden = true;
  showRunning(false);
  transcript.end();
  tell(text, wrong);
  for (const id of ["save", "clear"]) byId(id).disabled = !transcript.text;
  if (!one.ending) {
    one.ending = true;
    await one.source?.stop();
  }
  byId("level").value = 0;
}

byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const running = stream;
  const one = running ?? { capturedMs: 0, heardMs: 0, ending: false, client: null, source: null };
  try {
    await (running ? stop(one) : start(one));
  } catch (error) {
    if (!(error instanceof SourceError)) console.error(error);
    await finish(one, error.message, true);
  }
});

byId("source").addEventListener("change", () => {
  byId("file-choice").hidden = byId("source").value !== "file";
});

byId("clear").addEventListener("click", () => {
  transcript.clear();
  for (const id of ["save", "clear"]) byId(id).disabled = true;
});

byId("save").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([`${transcript.text}\n`], { type: "text/plain" }));
  element("a", { href: address, download: "translation.txt" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
});

try {
  const system = await loadSystem();
  settings = new Settings(system);
  showLoad(system.load);
  tell("Ready.");
  byId("start").disabled = false;
} catch (error) {
  tell(`The server does not answer: ${error.message}`, true);
}
