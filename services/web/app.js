// See yourself: publish the camera (or the sample call) by WHIP, watch the events it becomes.

import { html, render, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { Feed } from "./events.js";
import { Publisher } from "./publisher.js";
import { Reading } from "./reading.js";
import { blank, step } from "./session.js";
import { Stage } from "./stage.js";
import { streamOf, TokenForm } from "./token.js";
import { Log, Pill } from "./views.js";
import { capital } from "./words.js";

// Painted at most once a frame. A hidden tab gets no frames: it paints nothing, and catches up at once.
function usePainted(first) {
  const [shown, show] = useState(first);
  const latest = useRef(first);
  const frame = useRef(0);
  const change = (make) => {
    latest.current = make(latest.current);
    frame.current ||= requestAnimationFrame(() => {
      frame.current = 0;
      show(latest.current);
    });
  };
  return [shown, change];
}

function useNow(everyMs) {
  const [now, setNow] = useState(performance.now());
  useEffect(() => {
    setInterval(() => document.hidden || setNow(performance.now()), everyMs);
  }, []);
  return now;
}

function useDemeanor(config, video) {
  const [source, setSource] = useState({ kind: "none", message: "", session: null, again: false });
  const [session, change] = usePainted(blank());
  const [link, setLink] = useState({ state: "connecting" });
  const publisher = useRef(null);

  useEffect(() => {
    const feed = new Feed(config.events_url, config.token);
    let watched = null;
    const tell = (next) => {
      setSource(next);
      if (!next.session || next.session === watched) return;
      watched = next.session;
      change((now) => ({ ...blank(watched), log: now.log }));
      feed.watch(watched);
    };
    publisher.current = new Publisher(video.current, config.token, streamOf(config.token), tell);
    feed.addEventListener("event", ({ detail: event }) => {
      change((now) => step(now, event, performance.now()));
      if (event.type === "session.ended") publisher.current.sessionOver(event.reason);
    });
    feed.addEventListener("gone", () => {
      change((now) => ({ ...now, ended: "owner_lost", faces: null, state: "ended" }));
      publisher.current.sessionOver(null);
    });
    // Nothing is published before somebody can see what becomes of it.
    let greeted = false;
    feed.addEventListener("state", ({ detail }) => {
      setLink(detail);
      if (detail.state === "live" && !greeted) {
        greeted = true;
        publisher.current.playSample();
      }
    });
    addEventListener("pagehide", () => publisher.current.leave());
    addEventListener("pageshow", ({ persisted }) => persisted && publisher.current.again());
  }, []);

  return { source, session, link, publisher };
}

function Copy({ label, text }) {
  const [done, setDone] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setDone("Copied");
      setTimeout(() => setDone(""), 1500);
    } catch {
      prompt("Copy this:", text); // browsers give no clipboard to pages over plain http
    }
  };
  return html`<button class="plain" onClick=${copy}>${done || label}</button>`;
}

function Links({ config }) {
  const whip = new URL("whip/me", location.href).href;
  const shown = config.token === "dev" ? "dev" : "TOKEN"; // a token of one's own belongs into no clipboard
  const curl = `curl -N -H 'Authorization: Bearer ${shown}' ${new URL("v1/events", location.href).href}`;
  return html`<p class="links"><${Copy} label="Copy WHIP URL" text=${whip} /> <${Copy} label="Copy curl snippet" text=${curl} />
    <a href="asyncapi.json">API</a></p>`;
}

// Resolves to nothing, or to the sentence of whoever refused.
const explaining = (token) => async (session) => {
  const path = `v1/sessions/${encodeURIComponent(session)}/explain`;
  const response = await fetch(path, { method: "POST", headers: { Authorization: `Bearer ${token}` } }).catch(() => null);
  if (!response) return "The server does not answer. Try again in a moment.";
  if (response.ok) return "";
  const body = await response.json().catch(() => ({}));
  return capital(body.detail ?? `the server answered ${response.status}.`);
};

function Footer({ session, version, policy }) {
  const { model, scored } = session;
  return html`<footer><p>Demeanor ${version}${model && ` · model ${model.id} ${model.version}, ${model.providers.join(", ")}`}
      ${scored && ` · scored in ${scored.timing.score_ms} ms, ${scored.timing.age_ms} ms after its last picture or sound`}</p>
    <p>${`Scored are people in the roles ${policy.score_roles.join(", ")} only (policy ${policy.policy}). `}
      <a href="use.html">What this must not be used for</a></p></footer>`;
}

function App({ config, policy }) {
  const video = useRef(null);
  const now = useNow(500);
  const { source, session, link, publisher } = useDemeanor(config, video);
  const explain = useRef(config.explain ? explaining(config.token) : null);
  const alert = session.log.find((entry) => entry.kind === "alert");
  return html`
    <header><h1>Demeanor</h1><${Pill} link=${link} lagMs=${session.ended ? null : session.lagMs} /><${Links} config=${config} /></header>
    <main>
      <${Stage} video=${video} source=${source} faces=${session.faces} publisher=${publisher} notice=${policy.notice} on=${Boolean(source.session && !session.unscored)} />
      <${Reading} session=${session} link=${link} source=${source} now=${now} rule=${policy.thresholds.high} explain=${explain.current} />
      <section class="card feed" aria-label="Events"><h2>Events</h2>
        <div class="sr" role="log" aria-live="polite">${alert?.text}</div>
        <${Log} entries=${session.log} /></section>
    </main>
    <${Footer} session=${session} version=${config.version} policy=${policy} />`;
}

function Broken({ why }) {
  return html`<main class="broken"><h1>Demeanor</h1><p role="alert">${why}</p></main>`;
}

async function asked(path, headers = {}) {
  const response = await fetch(path, { headers }).catch(() => null);
  if (!response) throw new Error("The server does not answer. See whether demeanor up still runs, then reload this page.");
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail ?? `The server answered ${response.status}.`);
  return body;
}

const root = document.getElementById("app");
async function begin(config, token) {
  const policy = await asked("v1/policy", { Authorization: `Bearer ${token}` });
  render(html`<${App} config=${{ ...config, token }} policy=${policy} />`, root);
}

// The public token of this machine comes with the configuration; any other must be typed.
async function start() {
  const config = await asked("v1/config");
  if (config.token) await begin(config, config.token);
  else render(html`<${TokenForm} take=${(token) => begin(config, token)} />`, root);
}

start().catch((error) => render(html`<${Broken} why=${error.message} />`, root));
