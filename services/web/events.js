// The events of one session, through lost connections: reconnect with jitter, resume by seq.

const PROTOCOL = "demeanor.v1.json";
const BEAT_MS = 15_000;
const LONGEST_MS = 10_000;
const STOP = (code) => code === 1000 || code === 1009 || (code >= 4400 && code < 4500);
const GONE = 4404;

export class Feed extends EventTarget {
  #url;
  #token;
  #session = null;
  #seq = -1;
  #socket = null;
  #tries = 0;
  #pauseMs = 0;
  #timer = 0;
  #beat = 0;
  #live = false;
  #heard = true;
  #stopped = false;

  constructor(url, token) {
    super();
    this.#url = url;
    this.#token = token;
    this.#connect();
    addEventListener("online", () => this.#now());
  }

  // Everything of this session from its start, whenever it began.
  watch(session) {
    this.#session = session;
    this.#seq = -1;
    if (this.#live) this.#follow();
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #now() {
    if (this.#socket || this.#stopped) return;
    clearTimeout(this.#timer);
    this.#connect();
  }

  #connect() {
    this.#tell("state", { state: "connecting" });
    const socket = new WebSocket(this.#url, PROTOCOL);
    this.#socket = socket;
    socket.onopen = () => {
      this.#send({ type: "auth", token: this.#token });
      this.#send({ type: "ping", id: "hello" }); // its pong says that the token is good
      this.#heard = true;
      this.#beat = setInterval(() => this.#check(), BEAT_MS);
    };
    socket.onmessage = (message) => this.#receive(JSON.parse(message.data));
    socket.onclose = (event) => this.#lost(event);
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  // A socket that died without a word, as after a sleep, is noticed by the missing pong.
  #check() {
    if (!this.#heard) {
      this.#socket.onclose = null;
      this.#socket.close();
      this.#lost({ code: 1006, reason: "" });
      return;
    }
    this.#heard = false;
    this.#send({ type: "ping", id: "beat" });
  }

  #follow() {
    const since = this.#seq < 0 ? {} : { [this.#session]: this.#seq };
    this.#send({ type: "resume", id: "1", since, subscribe: { sessions: [this.#session] } });
  }

  #receive(message) {
    this.#heard = true;
    const pause = message.retry_after_ms ?? message.reconnect_after_ms;
    if (Number.isFinite(pause)) this.#pauseMs = pause;
    if (message.type === "pong" && !this.#live) {
      this.#live = true;
      this.#tries = 0;
      this.#pauseMs = 0;
      this.#tell("state", { state: "live" });
      if (this.#session) this.#follow();
    }
    if ("schema" in message && message.session_id === this.#session) this.#deliver(message);
  }

  // At least once on the wire, once to the page: positions already seen are dropped.
  #deliver(event) {
    if (event.seq !== null) {
      if (event.seq <= this.#seq) return;
      this.#seq = event.seq;
    }
    this.#tell("event", event);
  }

  #lost({ code, reason }) {
    this.#socket = null;
    this.#live = false;
    clearInterval(this.#beat);
    if (code === GONE) {
      this.#session = null;
      this.#tell("gone", null);
    } else if (STOP(code)) {
      this.#stopped = true;
      this.#tell("state", { state: "refused", reason: reason || `code ${code}` });
      return;
    }
    this.#tries += 1;
    const wait = this.#pauseMs + Math.random() * Math.min(LONGEST_MS, 500 * 2 ** this.#tries) + 200;
    this.#tell("state", { state: "lost", wait, tries: this.#tries });
    this.#timer = setTimeout(() => this.#now(), wait);
  }
}
