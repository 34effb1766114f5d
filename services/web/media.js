// Where pictures and sound come from: the camera, the bundled sample call, or a file of the viewer's.

const CAMERA = {
  video: { width: { ideal: 640 }, height: { ideal: 360 }, frameRate: { ideal: 30, max: 30 } },
  // Automatic gain would hide loudness, one of the measured cues.
  audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: false },
};

const TROUBLE = {
  NotAllowedError: "The browser was not allowed to use the camera.",
  NotFoundError: "No camera with a microphone was found.",
  NotReadableError: "The camera is in use by another program.",
  SecurityError: "Browsers give the camera only to https pages and to localhost.",
};

export class MediaError extends Error {}

// `wanted` is asked when the browser has answered: by then another choice may have been made.
export async function camera(video, wanted) {
  // Pages over plain http do not even have `mediaDevices`.
  if (!navigator.mediaDevices) throw new MediaError(TROUBLE.SecurityError);
  const stream = await navigator.mediaDevices.getUserMedia(CAMERA).catch((error) => {
    throw new MediaError(TROUBLE[error.name] ?? "The camera could not be opened.");
  });
  if (!wanted()) {
    for (const track of stream.getTracks()) track.stop();
    return null;
  }
  video.srcObject = stream;
  video.muted = true;
  await video.play();
  return stream;
}

// A playing <video> is captured as if it were a camera; muting it silences only the loudspeaker.
export async function playing(video, url, { name, loop }) {
  const capture = video.captureStream ?? video.mozCaptureStream;
  if (!capture) throw new MediaError("This browser cannot publish a file. Use your camera, or another browser.");
  video.muted = true;
  video.loop = loop;
  video.src = url;
  await video.play().catch((error) => {
    if (error.name === "NotAllowedError") throw new MediaError("The browser wants a click before it plays. Choose what to publish.");
    throw new MediaError(`This browser cannot play ${name}. Choose an MP4, WebM, MP3 or WAV file.`);
  });
  return capture.call(video);
}

export function release(video) {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  if (video.src.startsWith("blob:")) URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  video.load();
}
