// Publish a MediaStream by WHIP (RFC 9725): one POST, one answer, one DELETE.

import { sentence } from "./words.js";

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  const wait = response.headers.get("Retry-After");
  const detail = sentence(body.detail || `The server answered ${response.status}`);
  return new Error(wait ? `${detail} It asks to wait ${wait} s.` : detail);
}

async function ask(url, options) {
  return fetch(url, options).catch(() => {
    throw new Error("The server does not answer. See whether demeanor up still runs, then start again.");
  });
}

function send(peer, track, stream) {
  const options = { direction: "sendonly", streams: [stream] };
  // Three temporal layers let the server decode a quarter of the frames and lose nothing it needs.
  const layers = { ...options, sendEncodings: [{ scalabilityMode: "L1T3", maxBitrate: 800_000 }] };
  try {
    peer.addTransceiver(track, track.kind === "video" ? layers : options);
  } catch {
    peer.addTransceiver(track, options);
  }
}

// The server answers with all its candidates and learns ours from our own connectivity checks, so
// the offer may leave as soon as it exists: nothing to gather, no mDNS name to resolve.
export async function publish(stream, url, token) {
  const peer = new RTCPeerConnection({ iceServers: [] });
  const headers = { Authorization: `Bearer ${token}` };
  try {
    for (const track of stream.getTracks()) send(peer, track, stream);
    await peer.setLocalDescription();
    const response = await ask(url, {
      method: "POST",
      headers: { ...headers, "Content-Type": "application/sdp" },
      body: peer.localDescription.sdp,
    });
    if (response.status !== 201) throw await refusal(response);
    const resource = new URL(response.headers.get("Location"), url).href;
    const session = /session="([^"]+)"/.exec(response.headers.get("Link"))?.[1];
    if (!session) throw new Error("The server did not name the session. See whether something between this page and it removes the Link header.");
    await peer.setRemoteDescription({ type: "answer", sdp: await response.text() });
    return { peer, session, close: once(() => peer.close(), resource, headers) };
  } catch (error) {
    peer.close();
    throw error;
  }
}

function once(hangUp, resource, headers) {
  let open = true;
  return async ({ keepalive = false } = {}) => {
    if (!open) return;
    open = false;
    // Hanging up first would end the session, and the DELETE would find nothing there (404).
    await fetch(resource, { method: "DELETE", headers, keepalive }).catch(() => {});
    hangUp();
  };
}
