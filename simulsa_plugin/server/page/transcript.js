// The translation on the screen: final text, text that may change, what was taken back; and the final text for ears.

const SHOWN_DELETED_MS = 1500;
const ANNOUNCED_PARTS = 5;
const ANNOUNCE_MS = 2500;

export class Transcript {
  constructor(box, log) {
    this.box = box;
    this.log = log;
    this.clear();
  }

  get text() {
    return this.settled.data + this.open.textContent;
  }

  clear() {
    clearTimeout(this.fading);
    clearTimeout(this.announcing);
    this.announcing = null;
    this.settled = document.createTextNode("");
    this.open = element("span", { class: "open" });
    this.deleted = element("del", { "aria-hidden": "true" });
    this.box.replaceChildren(this.settled, this.open, this.deleted);
    this.log.replaceChildren();
    this.announced = 0;
  }

  /** Another stream follows: its text begins in a new line. */
  begin() {
    if (this.text) this.settled.data = `${this.text}\n`;
    this.open.textContent = "";
  }

  /** The stream is over: what is there is final, and is announced now. */
  end() {
    clearTimeout(this.fading);
    clearTimeout(this.announcing);
    this.deleted.textContent = "";
    this.#announce();
  }

  /** Take what the server says is new; `simulsa.open` is the end of the text that may change. */
  apply({ new: added, deleted, simulsa: { open } }) {
    const before = this.text;
    const text = before.slice(0, before.length - deleted.length) + added;
    const atEnd = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 40;
    this.#settle(text.slice(0, text.length - open.length));
    this.open.textContent = open;
    if (deleted && !added.startsWith(deleted)) this.#showDeleted(deleted);
    if (atEnd) this.box.scrollTop = this.box.scrollHeight;
    this.#announceSoon();
  }

  #settle(settled) {
    // Appending costs nothing however long the text is.
    if (settled.startsWith(this.settled.data)) this.settled.appendData(settled.slice(this.settled.data.length));
    else this.settled.data = settled;
  }

  #showDeleted(deleted) {
    clearTimeout(this.fading);
    this.deleted.textContent = deleted.trim();
    this.fading = setTimeout(() => { this.deleted.textContent = ""; }, SHOWN_DELETED_MS);
  }

  // A screen reader reads every addition to the log: final text alone, and not word by word.
  #announceSoon() {
    if (this.announcing === null && this.settled.data.length > this.announced) {
      this.announcing = setTimeout(() => this.#announce(), ANNOUNCE_MS);
    }
  }

  #announce() {
    this.announcing = null;
    const part = this.settled.data.slice(this.announced).trim();
    this.announced = this.settled.data.length;
    if (part) this.log.append(element("p", {}, part));
    while (this.log.childElementCount > ANNOUNCED_PARTS) this.log.firstElementChild.remove();
  }
}
