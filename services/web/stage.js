// Left side: what is published, and the ways to change it.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { Faces } from "./views.js";

const loopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(location.hostname);
const where = loopback ? "this machine only" : `the server ${location.host}`;

const SAYS = {
  none: "Nothing is published.",
  camera: `Your camera and microphone go to ${where}. No picture or sound is kept.`,
  sample: "The sample call plays and is published like a camera.",
  file: "Your file plays once and is published like a camera.",
};

// The box of a face is told in shares of the picture, so the stage takes the picture's shape.
function shape({ target }) {
  if (target.videoWidth) target.parentElement.style.setProperty("--aspect", target.videoWidth / target.videoHeight);
}

function Sound({ video }) {
  const [on, setOn] = useState(!video.current.muted);
  const turn = () => {
    video.current.muted = on;
    setOn(!on);
  };
  return html`<button aria-pressed=${on} onClick=${turn}>Sound</button>`;
}

// Asked once a tab and notice: the person agrees to this very text before their camera opens.
const remembered = (notice) => `demeanor.notice.${notice.sha256}`;

function acknowledged(notice) {
  try {
    return sessionStorage.getItem(remembered(notice)) !== null;
  } catch {
    return false; // a browser that stores nothing asks each time
  }
}

function acknowledge(notice) {
  try {
    sessionStorage.setItem(remembered(notice), "1");
  } catch {
    return; // see above
  }
}

function Notice({ notice, agree, leave }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} aria-labelledby="notice-title" onClose=${leave}>
    <h2 id="notice-title">Before your camera opens</h2>
    <p>${notice.text}</p>
    <p><a href="use.html" target="_blank" rel="noopener">What this must not be used for</a></p>
    <p class="buttons"><button class="first" onClick=${agree}>I agree</button><button onClick=${leave}>Not now</button></p>
  </dialog>`;
}

export function Stage({ video, source, faces, publisher, notice, on }) {
  const [asking, ask] = useState(false);
  const camera = () => (acknowledged(notice) ? publisher.current.useCamera() : ask(true));
  const agree = () => {
    acknowledge(notice);
    ask(false);
    publisher.current.useCamera();
  };
  const pick = (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer?.files ?? event.target.files;
    if (file) publisher.current.playFile(file);
    event.target.value = "";
  };
  const busy = source.kind !== "none";
  const mirrored = source.kind === "camera";
  return html`<section class="card stage" aria-label="Picture and sound" onDragOver=${(event) => event.preventDefault()} onDrop=${pick}>
    <div class=${mirrored ? "frame mirrored" : "frame"}>
      <video ref=${video} onResize=${shape} playsinline muted aria-label="What is published"></video>
      ${busy && html`<${Faces} faces=${faces} mirrored=${mirrored} />`}
    </div>
    ${on && html`<p class="badge"><span aria-hidden="true">●</span> Analysis of expressed emotion is on</p>`}
    <p class="says" role="status">${source.message || SAYS[source.kind]}</p>
    <p class="buttons">
      ${source.again && html`<button class="first" onClick=${() => publisher.current.again()}>Start again</button>`}
      <button onClick=${camera}>Use my camera</button>
      <button onClick=${() => publisher.current.playSample()}>Play the sample</button>
      <label class="button">Open a file<input type="file" accept="video/*,audio/*" onChange=${pick} /></label>
      ${(source.kind === "sample" || source.kind === "file") && html`<${Sound} key=${source.session} video=${video} />`}
      <button onClick=${() => publisher.current.stop()} disabled=${!busy}>Stop</button>
    </p>
    <p class="caution">This guesses expression, not feeling. It can be wrong.</p>
    ${asking && html`<${Notice} notice=${notice} agree=${agree} leave=${() => ask(false)} />`}
  </section>`;
}
