// What an explain model wrote, marked as generated wherever it stands: it is no evidence.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { capital } from "./words.js";

const PATIENCE_MS = 60_000; // later the moment is over; a busy model drops what is older than its newest questions

const NAMES = { loudness: "loudness", pitch: "pitch", speech_rate: "speech rate", brow_gap: "gap between the brows", mouth_open: "opening of the mouth" };

const number = (value) => (Math.abs(value) >= 10 ? value.toFixed(0) : value.toFixed(2));

function cue({ name, value, baseline, unit }) {
  const usual = baseline === null ? "" : `, usually ${number(baseline)}`;
  return `${NAMES[name] ?? name.replaceAll("_", " ")} ${number(value)} ${unit}${usual}`;
}

// The label it wrote may not be the one that its own numbers find likeliest: that is shown, not hidden.
function wrote({ label, raw, labels, agrees }) {
  const named = label === "other" && raw ? `other (“${raw}”)` : label;
  if (agrees) return `Label it wrote: ${named}, which is also its own likeliest.`;
  const [likeliest] = Object.entries(labels).sort((a, b) => b[1] - a[1])[0] ?? [];
  return `Label it wrote: ${named}. By its own numbers ${likeliest ?? "another"} is likelier.`;
}

function facts({ generation, cues }) {
  return [
    generation && wrote(generation),
    generation?.truncated && "Its thinking was cut off.",
    generation?.withheld > 0 && `${generation.withheld} ${generation.withheld === 1 ? "sentence" : "sentences"} withheld: against what was measured, repeated, or about other things.`,
    generation?.audio === "missing" && "It heard no sound.",
    cues.length > 0 && `Measured, and in line with it: ${cues.map(cue).join("; ")}.`,
  ].filter(Boolean);
}

function Words({ event }) {
  const { model, text, alert_id: alert } = event;
  return html`<h2><span aria-hidden="true">✎</span> Generated words, no evidence</h2>
    <p class="quiet small">${capital(alert ? "about the alert" : "about a moment of this call")}, written by ${model ? `the model ${model.id} ${model.version}` : "a model"}; it may be wrong.</p>
    ${text ? html`<blockquote>${text}</blockquote>` : html`<p>It wrote nothing that may be shown.</p>`}
    <ul class="small">${facts(event).map((line) => html`<li key=${line}>${line}</li>`)}</ul>`;
}

// `ask` posts the request; it resolves to nothing, or to the sentence of a refusal.
function useAsking(session, ask) {
  const [asked, set] = useState({ id: null, seen: null, why: "" });
  const newest = session.generated?.id ?? null;
  const waits = asked.id !== null && asked.id === session.id && newest === asked.seen && !session.ended;
  useEffect(() => {
    if (!waits) return undefined;
    const late = setTimeout(() => set({ id: null, seen: null, why: "No words came: the model is busy, or there was no picture to look at. Ask again." }), PATIENCE_MS);
    return () => clearTimeout(late);
  }, [waits]);
  const begin = async () => {
    set({ id: session.id, seen: newest, why: "" });
    const why = await ask(session.id);
    if (why) set({ id: null, seen: null, why });
  };
  const came = asked.id !== null && asked.id === session.id && newest !== asked.seen;
  const says = waits ? "Asked. The words come when the model is done." : came ? "The words have come." : asked.why;
  return [waits, says, begin];
}

function Asking({ session, ask }) {
  const [waits, says, begin] = useAsking(session, ask);
  const live = session.id && !session.ended && !session.unscored && session.scored;
  return html`<p class="buttons"><button onClick=${begin} disabled=${waits || !live}>Explain this moment</button></p>
    <p class="small" role="status">${says}</p>`;
}

// `ask` is null where nobody can ask; alerts may be explained all the same.
export function Generated({ session, ask }) {
  if (!ask && !session.generated) return null;
  return html`<section class="generated" aria-label="Generated explanation">
    ${ask && html`<${Asking} session=${session} ask=${ask} />`}
    ${session.generated && html`<${Words} event=${session.generated} />`}
  </section>`;
}
