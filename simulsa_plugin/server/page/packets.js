// In the audio thread: all channels averaged, 16-bit samples, a message for each tenth of a second.
class Packets extends AudioWorkletProcessor {
  constructor() {
    super();
    this.packet = new Int16Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.port.onmessage = () => this.post();  // what there is, at the end
  }

  process([channels]) {
    const length = channels.length ? channels[0].length : 0;
    for (let i = 0; i < length; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      const sample = Math.round(32768 * sum / channels.length);
      this.packet[this.filled++] = Math.max(-32768, Math.min(32767, sample));
      if (this.filled === this.packet.length) this.post();
    }
    return true;
  }

  post() {
    this.port.postMessage(this.packet.slice(0, this.filled));
    this.filled = 0;
  }
}
registerProcessor("packets", Packets);
