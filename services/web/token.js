// The token that a person types: kept in this page's memory only, and gone with the page.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";

const WORD = /^[\x21-\x7e]{1,3000}$/;

// The stream that a token lets its holder publish, or null. The server checks it; the page only reads the name.
export function streamOf(token) {
  try {
    const { scope } = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return scope.split(" ").find((word) => word.startsWith("ingest:"))?.slice("ingest:".length) ?? null;
  } catch {
    return null;
  }
}

// `take` gets the token; what it throws is shown, and the person may try another one.
export function TokenForm({ take }) {
  const field = useRef(null);
  const [why, setWhy] = useState("");
  const [asking, setAsking] = useState(false);
  useEffect(() => field.current.focus(), []);

  const submit = async (event) => {
    event.preventDefault();
    const token = field.current.value.trim();
    if (!WORD.test(token)) {
      setWhy("A token is one word without blanks, as it was issued.");
      return;
    }
    setAsking(true);
    try {
      await take(token);
    } catch (error) {
      setWhy(error.message);
      setAsking(false);
      field.current.focus();
    }
  };

  return html`<main class="broken"><h1>Demeanor</h1>
    <form class="card token" onSubmit=${submit}>
      <label for="token">Token</label>
      <p id="token-help">This server wants a token; whoever runs it issues one. It stays in this page only, until you close or reload it.</p>
      <p class="buttons"><input id="token" ref=${field} type="password" autocomplete="off" required maxlength="3000"
        aria-describedby="token-help token-why" aria-invalid=${Boolean(why)} />
        <button class="first" disabled=${asking}>Connect</button></p>
      <p id="token-why" role="alert">${why}</p>
    </form></main>`;
}
