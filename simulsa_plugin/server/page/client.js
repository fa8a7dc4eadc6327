// The WebSocket: settings, audio, and what the server tells.

const MOST_WAITING_SECONDS = 30;  // audio that the network has not taken

export class Client {
  /** `listener` has onreport(message), onend() and onerror(text). */
  constructor(listener) {
    this.listener = listener;
    this.ended = false;
  }

  /** Connect, and say how audio comes and what is wanted of it. */
  open(request) {
    const address = new URL("ws", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.rate = request.sample_rate;
    this.socket = new WebSocket(address);
    this.socket.onmessage = ({ data: text }) => this.#take(JSON.parse(text));
    this.socket.onclose = () => this.#fail("The connection to the server has ended.");
    return new Promise((resolve) => {
      this.socket.onopen = () => {
        this.socket.send(JSON.stringify(request));
        resolve();
      };
      this.socket.onerror = resolve;  // onclose follows, and tells
    });
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  /** Leave: the server is told, and the listener nothing any more. */
  close() {
    this.ended = true;
    this.socket?.close();
  }

  #take(message) {
    if (message.error) this.#fail(message.error);
    else if (message.end_of_processing) this.#finish();
    else if (!this.ended) this.listener.onreport(message);
  }

  #finish() {
    this.close();
    this.listener.onend();
  }

  #fail(text) {
    if (this.ended) return;
    this.close();
    this.listener.onerror(text);
  }

  send(samples) {
    if (!this.isOpen) return;
    this.socket.send(samples.buffer);
    if (this.socket.bufferedAmount > 2 * this.rate * MOST_WAITING_SECONDS) {
      this.#fail(`The network or the server takes no audio: ${MOST_WAITING_SECONDS} s of it are waiting.`);
    }
  }

  end() {
    if (this.isOpen) this.socket.send(JSON.stringify({ end_of_stream: true }));
  }
}
