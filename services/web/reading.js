// Right side: what is expressed, how sure that is, and the last minute.

import { html, useEffect, useRef } from "./vendor/htm-preact.js";
import { Generated } from "./generated.js";
import { shown } from "./session.js";
import { Trace } from "./trace.js";
import { Bars, Evidence, Gauge, StateMark } from "./views.js";
import { adjective, clock, said, SKIPPED, sure } from "./words.js";

const two = (value) => (value === null ? "—" : value.toFixed(2));

function Minute({ rows }) {
  const element = useRef(null);
  const trace = useRef(null);
  useEffect(() => {
    trace.current ??= new Trace(element.current);
    trace.current.draw(rows);
  }, [rows]);
  const now = rows.at(-1);
  const value = (number) => (number === null ? "not measured" : number.toFixed(2));
  const words = now ? `Now valence ${value(now.valence)}, arousal ${value(now.arousal)}.` : "Nothing yet.";
  return html`<h2>Valence and arousal, last minute</h2>
    <p class="keys"><span class="key-valence">━ valence</span> <span class="key-arousal">╍ arousal</span>
      <span class="quiet">a break: nothing measured</span></p>
    <div class="trace" ref=${element} role="img" aria-label="Valence and arousal over the last minute. ${words}"></div>
    <details><summary>Show as table</summary>
      <table class="twin"><thead><tr><th scope="col">Time</th><th scope="col">Valence</th><th scope="col">Arousal</th></tr></thead>
        <tbody>${rows.slice(-20).reverse().map((row) => html`<tr key=${row.ms}><td>${clock(row.ms)}</td><td>${two(row.valence)}</td><td>${two(row.arousal)}</td></tr>`)}</tbody>
      </table></details>`;
}

function Headline({ event }) {
  if (!event) return null;
  if (event.abstained || event.top === null) return html`<span>not sure enough to say</span>`;
  return html`<span>comes across as <strong>${adjective(event.top)}</strong>, ${sure(event.confidence)}</span>`;
}

// `explain` asks for words about this moment; null where moments are not explained on request.
export function Reading({ session, link, source, now, rule, explain }) {
  const [state, note] = shown(session, link, now);
  const waits = state === "waiting" && (session.unscored ? `– nothing is looked at: ${session.unscored}` : source.kind === "none" ? "– nothing is published" : "– the first reading takes a few seconds");
  const { last } = session;
  const nothing = last?.type === "window.skipped" && last.reason === "no_evidence";
  const event = nothing ? null : session.scored;
  const busy = session.scored?.degraded?.includes("hop_doubled") && (last?.type === "window.scored" || last?.reason === "overload");
  const why = nothing ? "The bars come back with a voice or a face." : busy ? "The server is busy: readings come less often." : last?.type === "window.skipped" ? `Not scored: ${said(SKIPPED, last.reason)}.` : last?.reason?.text;
  const old = ["stale", "disconnected", "ended"].includes(state) || (last?.type === "window.skipped" && !busy);
  return html`<section class=${old ? "card reading old" : "card reading"} aria-label="What is expressed">
    <p class="headline"><${StateMark} state=${state} note=${note || waits} /> <${Headline} event=${event} /></p>
    <p class="why">${why}</p>
    <${Generated} session=${session} ask=${explain} />
    <${Evidence} evidence=${session.evidence} since=${session.since} endMs=${session.endMs} />
    <${Bars} labels=${session.labels} scale=${session.scale} event=${event} />
    <${Gauge} frustration=${event?.frustration} state=${session.level} alert=${session.alert} rule=${rule} />
    <${Minute} rows=${session.rows} />
  </section>`;
}
