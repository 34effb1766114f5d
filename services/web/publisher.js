// What this page publishes, one thing at a time: camera, sample or file → WHIP → a session.

import { camera, MediaError, playing, release } from "./media.js";
import { ENDINGS, said } from "./words.js";
import { publish } from "./whip.js";

const ASKING = "The browser asks whether it may use your camera and microphone.";

export class Publisher {
  #video;
  #token;
  #stream;
  #tell;
  #published = null;
  #turn = 0;
  #again = null;

  // `stream` is the one that the token is for; null: any name will do.
  // `tell` gets {kind, message, session, again}; kind is none, camera, sample or file.
  constructor(video, token, stream, tell) {
    this.#video = video;
    this.#token = token;
    this.#stream = stream;
    this.#tell = tell;
    video.onended = () => video.srcObject || this.#end("Your file has played to its end.", true);
  }

  useCamera() {
    return this.#start("camera", ASKING, (video, wanted) => camera(video, wanted), () => this.useCamera());
  }

  playSample(because = "") {
    const open = (video) => playing(video, "sample.webm", { name: "the sample", loop: true });
    return this.#start("sample", because, open, () => this.playSample());
  }

  playFile(file) {
    const open = (video) => playing(video, URL.createObjectURL(file), { name: file.name, loop: false });
    return this.#start("file", "", open, () => this.playFile(file));
  }

  again() {
    return this.#again?.();
  }

  stop() {
    return this.#end("");
  }

  // A page that goes away may still say good-bye.
  leave() {
    this.#turn += 1;
    this.#published?.close({ keepalive: true });
    this.#published = null;
  }

  // The server says that the session is over; null: it does not know it.
  sessionOver(reason) {
    const why = reason ? said(ENDINGS, reason) : "it does not know it any more";
    if (this.#published) this.#end(`The server ended the session: ${why}.`, true);
  }

  async #start(kind, message, open, again) {
    const turn = ++this.#turn;
    this.#again = again;
    this.#say(kind, message);
    release(this.#video);
    try {
      await this.#close();
      await this.#publish(() => turn === this.#turn, kind, message, open);
    } catch (error) {
      if (turn !== this.#turn) return;
      release(this.#video);
      const own = error instanceof MediaError;
      if (kind === "camera" && own) await this.playSample(`${error.message} The sample call plays instead.`);
      else this.#say("none", error.message, { again: !own });
    }
  }

  // Another choice may be made during every wait here; `wanted` tells.
  async #publish(wanted, kind, message, open) {
    const media = wanted() && (await open(this.#video, wanted));
    if (!wanted()) return;
    const name = this.#stream ?? `page-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
    const published = await publish(media, new URL(`whip/${name}`, location.href).href, this.#token);
    if (!wanted()) {
      await published.close();
      return;
    }
    this.#published = published;
    const said = message === ASKING ? "" : message;
    const { session } = published;
    this.#watch(published.peer, media, (text) => this.#say(kind, text ?? said, { session }));
    this.#say(kind, said, { session });
  }

  #watch(peer, media, say) {
    const fail = (why) => this.#published?.peer === peer && this.#end(why, true);
    peer.addEventListener("connectionstatechange", () => {
      const state = peer.connectionState;
      if (state === "connected") say(null);
      if (state === "disconnected") say("The connection to the server is interrupted…");
      if (state === "failed" || state === "closed") fail("The connection to the server was lost.");
    });
    for (const track of media.getTracks())
      if (this.#video.srcObject) track.addEventListener("ended", () => fail(`The ${track.kind === "audio" ? "microphone" : "camera"} went away.`));
  }

  async #end(message, again = false) {
    this.#turn += 1;
    this.#say("none", message, { again });
    release(this.#video);
    await this.#close();
  }

  async #close() {
    const published = this.#published;
    this.#published = null;
    await published?.close();
  }

  #say(kind, message, more = {}) {
    this.#tell({ kind, message, session: null, again: false, ...more });
  }
}
