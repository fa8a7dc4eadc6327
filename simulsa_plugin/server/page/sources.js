// Where audio comes from: each source gives packets of 16-bit samples in real time.

/** Something that the reader can mend, told as it is. */
export class SourceError extends Error {}

const HTTPS_ALONE = "Browsers give sound to localhost and to HTTPS alone. Open this page as localhost (ssh -L), or start the "
  + "server with --certificate and --key.";
// Models are trained on sound as it is recorded.
const UNPROCESSED = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

/** Open a source. `listener` has onpacket(samples) and onend(). Returns { sampleRate, start(), stop() }. */
export async function openSource(kind, player, listener) {
  const context = new AudioContext();
  try {
    if (!context.audioWorklet) throw new SourceError(HTTPS_ALONE);
    await context.audioWorklet.addModule("packets.js");
    const opened = kind === "file" ? playFile(context, player) : await capture(context, kind);
    return recorder(context, opened, listener);
  } catch (error) {
    await context.close();
    throw error;
  }
}

async function capture(context, kind) {
  if (!navigator.mediaDevices) throw new SourceError(HTTPS_ALONE);
  const stream = kind === "tab" ? await captureTab() : await captureMicrophone();
  const [track] = stream.getAudioTracks();
  return {
    node: context.createMediaStreamSource(new MediaStream([track])),
    target: track,
    start: () => context.resume(),
    stop: () => stream.getTracks().forEach((one) => one.stop()),
  };
}

async function captureMicrophone() {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: UNPROCESSED });
  } catch (error) {
    throw new SourceError(`The browser gives no microphone (${error.name}). Connect one, and allow it for this page.`);
  }
}

async function captureTab() {
  if (!navigator.mediaDevices.getDisplayMedia) throw new SourceError("This browser shares no tabs. Use another one.");
  let stream;
  try {
    stream = await navigator.mediaDevices.getDisplayMedia({ video: true, audio: UNPROCESSED });
  } catch (error) {
    throw new SourceError(`The browser shares no tab (${error.name}). Choose a tab, and share its audio.`);
  }
  if (stream.getAudioTracks().length) return stream;
  stream.getTracks().forEach((one) => one.stop());
  throw new SourceError("What is shared has no sound. Choose a tab, and tick “Also share tab audio”.");
}

// An element can feed one node for ever, and a node belongs to one context: each file gets a new element.
function playFile(context, player) {
  const node = context.createMediaElementSource(player);
  node.connect(context.destination);
  return {
    node,
    target: player,
    async start() {
      await context.resume();
      try {
        await player.play();
      } catch (error) {
        throw new SourceError(`The browser cannot play this file (${error.name}). Choose audio or video that it plays.`);
      }
    },
    stop: () => player.pause(),
  };
}

function recorder(context, opened, listener) {
  const packets = new AudioWorkletNode(context, "packets", { numberOfOutputs: 1 });
  let flushed = () => {};
  packets.port.onmessage = ({ data: samples }) => {
    if (samples.length) listener.onpacket(samples);
    flushed();
  };
  opened.target.addEventListener("ended", listener.onend);
  opened.node.connect(packets).connect(context.destination);  // silent; what leads nowhere is not computed
  return {
    sampleRate: context.sampleRate,
    start: opened.start,
    /** Stop, and give the last packet. */
    async stop() {
      opened.target.removeEventListener("ended", listener.onend);
      opened.stop();
      const last = new Promise((resolve) => { flushed = resolve; });
      packets.port.postMessage("flush");
      await Promise.race([last, new Promise((resolve) => setTimeout(resolve, 500))]);
      await context.close();
    },
  };
}
