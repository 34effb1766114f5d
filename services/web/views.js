// What the numbers look like. Every state is a glyph and a word; colour only repeats them.

import { html } from "./vendor/htm-preact.js";
import { clock, evidenceSentence, percent, share } from "./words.js";

const STATES = {
  calm: ["●", "Calm"],
  watch: ["▲", "Watch"],
  high: ["■", "High"],
  no_evidence: ["◌", "No evidence"],
  stale: ["◷", "Stale"],
  disconnected: ["⨯", "Disconnected"],
  waiting: ["…", "Waiting"],
  ended: ["◻", "Ended"],
};

export function StateMark({ state, note }) {
  const [glyph, word] = STATES[state];
  return html`<span class="state state-${state}"><span aria-hidden="true">${glyph}</span> ${word}${note ? ` ${note}` : ""}</span>`;
}

const LINKS = { connecting: "◌ Connecting", live: "● Live", lost: "⨯ Disconnected", refused: "⨯ Refused" };

export function Pill({ link, lagMs }) {
  const more = {
    lost: () => ` – reconnecting in ${Math.ceil(link.wait / 1000)} s (try ${link.tries})`,
    refused: () => ` – ${link.reason}`,
  }[link.state]?.();
  const lag = link.state === "live" && lagMs !== null;
  return html`<p class="pill" role="status">${LINKS[link.state]}${more}${lag && html`<span aria-hidden="true"> · ${lagMs} ms behind</span>`}</p>`;
}

const LEAST_BAND = 0.03; // narrower, and its two ends would be one blot

function Band({ low, high }) {
  return html`<div class="band" style=${{ left: percent(low) + "%", width: percent(high - low) + "%" }}></div>`;
}

export function Bars({ labels, event, scale }) {
  return html`<table class="bars">
    <caption>Expressed emotion, ${scale === "independent" ? "each of 100" : "shares of 100"}, with the likely range</caption>
    <thead class="sr"><tr><th scope="col">Emotion</th><th scope="col">Bar</th><th scope="col">Share</th></tr></thead>
    <tbody>${labels.map((label) => html`<${Bar} key=${label} label=${label} event=${event} />`)}</tbody>
  </table>`;
}

function Bar({ label, event }) {
  const value = event?.emotions?.[label] ?? null;
  const [low, high] = event?.bands?.[label] ?? [value, value];
  const half = high > low ? ` ±${percent((high - low) / 2)}` : "";
  return html`<tr class=${event?.top === label ? "top" : ""}>
    <th scope="row">${label}</th>
    <td><div class="bar">
      ${value !== null && html`<div class="fill emotion-${label}" style=${{ width: `${value * 100}%` }}></div>`}
      ${high - low >= LEAST_BAND && html`<${Band} low=${low} high=${high} />`}
    </div></td>
    <td class="number">${value === null ? "—" : share(value) + half}</td>
  </tr>`;
}

const TRENDS = { rising: "↑ rising", steady: "→ steady", falling: "↓ falling" };

// While an alert holds, its number may lie below the level that raised it: say why it still holds.
function held(frustration, state, alert, rule) {
  const back = `${percent(rule.leave)} for ${rule.leave_ms / 1000} s.`;
  if (state !== "high" || !frustration || frustration.value >= rule.enter)
    return `Turns high above ${percent(rule.enter)} for ${rule.enter_ms / 1000} s, back below ${back}`;
  return `${alert ? `Was ${percent(alert.value)}, now` : "Now"} ${percent(frustration.value)} – clears at ${back}`;
}

// `rule` is the policy's; null while nobody told it.
export function Gauge({ frustration, state, alert, rule }) {
  const level = rule ? ` Alert level ${percent(rule.enter)}.` : "";
  const words = frustration
    ? `Expressed frustration ${percent(frustration.value)} of 100, likely between ${percent(frustration.low)} and ${percent(frustration.high)}, ${frustration.trend}.${level}`
    : "Expressed frustration: nothing could be measured.";
  return html`<div class="gauge">
    <p class="gauge-head"><span class="quiet">Expressed frustration</span>
      <strong>${frustration ? `${percent(frustration.value)} ±${percent((frustration.high - frustration.low) / 2)}` : "—"}</strong>
      <span class="quiet">${frustration ? TRENDS[frustration.trend] : ""}</span></p>
    <div class="gauge-bar" role="img" aria-label=${words}>
      ${frustration && html`<div class="fill fill-${state}" style=${{ width: `${frustration.value * 100}%` }}></div>
        <${Band} ...${frustration} />`}
      ${rule && html`<div class="alert-level" style=${{ left: percent(rule.enter) + "%" }}></div>`}
    </div>
    <p class="quiet small">${rule && held(frustration, state, alert, rule)}</p>
  </div>`;
}

export function Faces({ faces, mirrored }) {
  return html`${(faces ?? []).map((face) => {
    const [x, y, width, height] = face.box;
    const side = mirrored ? 1 - x - width : x;
    const [left, top, wide, tall] = [side, y, width, height].map((part) => `${part * 100}%`);
    const [label, value] = Object.entries(face.emotions).sort((a, b) => b[1] - a[1])[0] ?? [];
    return html`<div class="face" key=${face.face_id} style=${{ left, top, width: wide, height: tall }}>
      ${label && html`<span>${label} ${share(value)}${face.speaking ? " · speaking" : ""}</span>`}
    </div>`;
  })}`;
}

function Chip({ name, part }) {
  if (!part) return html`<span class="chip off">${name} —</span>`;
  if (!part.used) return html`<span class="chip off"><s>${name}</s></span>`;
  return html`<span class="chip">${name}${part.quality === null ? "" : ` · quality ${percent(part.quality)}`}</span>`;
}

export function Evidence({ evidence, since, endMs }) {
  return html`<p class="evidence"><${Chip} name="voice" part=${evidence?.audio} /> <${Chip} name="face" part=${evidence?.video} />
    <span class="quiet">${evidence ? evidenceSentence(evidence, since, endMs) : ""}</span></p>`;
}

export function Log({ entries }) {
  return html`<ol class="log" tabindex="0" aria-label="Events, newest first">
    ${entries.map((entry) => html`<li key=${entry.key} class=${entry.kind}><time>${clock(entry.atMs)}</time> <span>${entry.text}</span></li>`)}
  </ol>`;
}
