// How numbers and codes are said. Words speak of what is expressed, never of what a person feels.

const WHY = {
  audio: {
    no_track: "no sound is sent", no_media: "no sound arrives", no_speech: "quiet", silent: "silent", muted: "muted",
  },
  video: {
    no_track: "no picture is sent", no_media: "no picture arrives", no_face: "no face seen", muted: "picture is off",
    dark: "too dark", frozen: "picture stands still", blurred: "blurred", multiple_faces: "several faces",
    overload: "the server is busy",
  },
};
const LASTING = new Set(["no_track", "multiple_faces"]);

export const SKIPPED = {
  no_evidence: "no evidence", low_quality: "too little came through", stale: "too old to matter",
  late: "too late", overload: "the server is busy", policy: "the policy holds it back", model_error: "the model failed",
};

export const CAUSES = {
  packet_loss: "packets were lost", muted: "muted", hold: "on hold", publisher_reconnect: "reconnected",
  clock_jump: "the clock was corrected", no_media: "nothing arrived", slow_reader: "this page was too slow",
  log_trimmed: "too old to fetch again", bus_reconnect: "the server lost its store",
  recovered: "calmer again", evidence_lost: "nothing could be measured", session_ended: "session ended", operator: "by hand",
};

export const UNSCORED = {
  policy_role: "this role is not scored", policy_consent: "nobody has agreed yet", policy_release: "no release was signed",
};

export const ENDINGS = {
  publisher_left: "publisher left", deleted: "erased", timeout: "nothing more arrived", drained: "the server went away",
  policy: "policy", owner_lost: "its server was lost, or another publisher took over", bad_media: "the media could not be read", error: "a fault of the server",
};

const ADJECTIVES = { fear: "fearful", disgust: "disgusted", surprise: "surprised", contempt: "contemptuous" };
export const adjective = (label) => ADJECTIVES[label] ?? label;

export const said = (table, code) => table[code] ?? code.replaceAll("_", " ");
export const percent = (value) => `${Math.round(value * 100)}`;

// A share is never shown as nothing or as everything: rounding would claim a certainty that nobody has.
export const share = (value) => (value > 0.99 ? ">99" : value < 0.01 ? "<1" : percent(value));
export const sure = (confidence) => `${Math.min(99, Math.round(confidence * 100))} % sure`;

export function clock(ms) {
  const seconds = Math.max(0, Math.floor((ms ?? 0) / 1000));
  return `${String(Math.floor(seconds / 60)).padStart(2, "0")}:${String(seconds % 60).padStart(2, "0")}`;
}

function lack(part, evidence, sinceMs, endMs) {
  const why = WHY[part][evidence.reason] ?? `${part === "audio" ? "voice" : "face"} not used`;
  const seconds = Math.floor((endMs - (sinceMs ?? endMs)) / 1000);
  return seconds >= 1 && !LASTING.has(evidence.reason) ? `${why} for ${seconds} s` : why;
}

// "No face seen for 3 s – voice only."
export function evidenceSentence(evidence, since, endMs) {
  const missing = ["audio", "video"].filter((part) => !evidence[part].used);
  if (missing.length === 0) return "Voice and face both count.";
  const text = missing.map((part) => lack(part, evidence[part], since[part], endMs)).join(", ");
  const left = missing.length === 2 ? "nothing to score" : missing[0] === "audio" ? "face only" : "voice only";
  return `${capital(text)} – ${left}.`;
}

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export function sentence(text) {
  const whole = capital(text.trim());
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
