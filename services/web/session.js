// One session as the page knows it: events in, what to show out. The server owns every state; only
// "stale", "disconnected" and "waiting" belong to the viewer.

import { CAUSES, ENDINGS, SKIPPED, UNSCORED, adjective, evidenceSentence, said, sure } from "./words.js";

const LOG_ENTRIES = 60;
const SPAN_MS = 60_000;
const HOLD_MS = 1000; // a label that passes sooner is no news
const MISSED_MS = 3000; // a voice or a face that is back sooner is no news either
const PARTS = ["audio", "video"];

export function blank(id = null) {
  return {
    id, labels: ["neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"], hopMs: 500, scale: "simplex", model: null,
    scored: null, last: null, state: "waiting", level: "calm", alert: null, evidence: null, faces: null,
    rows: [], log: [], endMs: 0, heardAt: 0, lagMs: null, ended: null, unscored: null,
    generated: null, // the newest event with words of a model
    since: { audio: null, video: null }, // media time since when voice or face is missing
    told: { audio: false, video: false }, // whether the log says so
    news: { told: null, next: null, sinceMs: 0 },
  };
}

function noted(session, event, kind, text) {
  const entry = { key: `${event.id}${kind}`, kind, text, atMs: session.endMs };
  return { ...session, log: [entry, ...session.log].slice(0, LOG_ENTRIES) };
}

// Rows of the trace. Windows that never came break the line like windows without evidence.
function traced(session, event) {
  const row = { ms: event.window.end_ms, valence: event.valence ?? null, arousal: event.arousal ?? null };
  const before = session.rows.at(-1);
  const hole = before && row.ms - before.ms > 3 * session.hopMs;
  const filled = hole ? [...session.rows, { ms: before.ms + session.hopMs, valence: null, arousal: null }] : session.rows;
  return [...filled, row].filter(({ ms }) => ms >= row.ms - SPAN_MS);
}

function seen(session, event) {
  const since = {};
  for (const part of PARTS)
    since[part] = event.evidence[part].used ? null : session.since[part] ?? event.window.start_ms;
  return {
    ...session, since, last: event, state: event.state, evidence: event.evidence, endMs: event.window.end_ms,
    lagMs: event.timing?.age_ms ?? event.age_ms, rows: traced(session, event),
  };
}

function settled(session, event, what, kind, text) {
  const { told, next, sinceMs } = session.news;
  const from = what === next ? sinceMs : session.endMs;
  const news = { told, next: what, sinceMs: from };
  if (what === told || (told !== null && session.endMs - from < HOLD_MS)) return { ...session, news };
  return noted({ ...session, news: { ...news, told: what } }, event, kind, text);
}

function levelled(session, event) {
  if (event.state === session.level || event.state === "no_evidence") return session;
  const next = { ...session, level: event.state };
  const alertSays = event.state === "high" || (session.level === "high" && event.state === "calm");
  if (alertSays) return next;
  return noted(next, event, "state", event.state === "watch" ? "▲ Watch: expressed frustration is up." : "● Calm again.");
}

function evidenced(session, event, before) {
  let next = session;
  for (const part of PARTS) {
    const missing = next.since[part] !== null;
    if (next.told[part] === missing) continue;
    if (missing && next.endMs - next.since[part] < MISSED_MS) continue;
    next = { ...next, told: { ...next.told, [part]: missing } };
    const back = part === "audio" ? "The voice counts again." : "The face counts again.";
    if (before?.type === "window.skipped") continue; // the return itself is in the log
    next = noted(next, event, `skip ${part}`, missing ? evidenceSentence(event.evidence, next.since, next.endMs) : back);
  }
  return next;
}

function scored(session, event) {
  const next = { ...levelled(seen(session, event), event), scored: event, faces: event.faces };
  const says = event.abstained ? "Not sure enough to say." : `Comes across as ${adjective(event.top)} (${sure(event.confidence)}).`;
  const text = event.reason ? `${says} ${event.reason.text}` : says;
  return evidenced(settled(next, event, event.abstained ? "" : event.top, "window", text), event, session.last);
}

function skipped(session, event) {
  const next = { ...levelled(seen(session, event), event), faces: null };
  const quiet = event.reason === "no_evidence";
  const told = quiet ? { audio: next.since.audio !== null, video: next.since.video !== null } : next.told;
  const why = quiet ? evidenceSentence(event.evidence, {}, 0) : `Not scored: ${said(SKIPPED, event.reason)}.`;
  return settled({ ...next, told }, event, `skip ${event.reason}`, "skip", why);
}

function ended(session, event) {
  const { scored: count, skipped: left } = event.counts;
  const without = Object.values(left).reduce((sum, number) => sum + number, 0);
  const next = { ...session, ended: event.reason, faces: null, state: "ended" };
  return noted(next, event, "note", `Session ended (${said(ENDINGS, event.reason)}): ${count} windows scored, ${without} not.`);
}

function generated(session, event) {
  const text = event.text ? `Generated text, may be wrong: ${event.text}` : "Generated text: nothing that may be shown.";
  return noted({ ...session, generated: event }, event, "note", text);
}

function explained(session, event) {
  if (event.generated) return generated(session, event);
  const said = session.log.some(({ kind, text }) => kind === "alert" && text.endsWith(event.text));
  if (said) return session; // an alert's reason and its explanation may be the same words
  return noted(session, event, "note", `Measured: ${event.text}`);
}

function started(session, event) {
  const { labels, scale, model, participants } = event;
  const left = participants.find(({ scored: wanted }) => !wanted);
  const unscored = left ? said(UNSCORED, left.why_not ?? "") : null;
  const next = { ...session, labels, scale, model, unscored, hopMs: event.window.hop_ms };
  return noted(next, event, "note", unscored ? `Session started. Nothing is looked at: ${unscored}.` : "Session started.");
}

const handlers = {
  "session.started": started,
  "window.scored": scored,
  "window.skipped": skipped,
  "alert.raised": (session, event) => noted(
    { ...session, alert: event.alert }, event, "alert", `■ Alert: expressed frustration is high. ${event.reason.text}`),
  "alert.cleared": (session, event) => noted(
    { ...session, alert: null }, event, "alert", `● Alert over (${said(CAUSES, event.cause)}) after ${Math.round(event.duration_ms / 1000)} s.`),
  explanation: explained,
  gap: (session, event) => noted(session, event, "skip", event.kind === "delivery"
    ? `This page missed events ${event.from_seq} to ${event.to_seq}: ${said(CAUSES, event.cause)}.`
    : `Gap of ${((event.end_ms - event.start_ms) / 1000).toFixed(1)} s: ${said(CAUSES, event.cause)}.`),
  "session.ended": ended,
};

export function step(session, event, now) {
  if (!Object.hasOwn(handlers, event.type)) return session;
  return { ...handlers[event.type](session, event), heardAt: now };
}

// What the page says now: the server's state, unless the viewer knows better.
export function shown(session, link, now) {
  if (link.state === "lost" || link.state === "refused") return ["disconnected", ""];
  const silentMs = now - session.heardAt;
  if (session.last && !session.ended && silentMs > 3 * session.hopMs) return ["stale", `${(silentMs / 1000).toFixed(0)} s`];
  return [session.state, ""];
}
