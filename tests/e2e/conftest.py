"""Fixtures: servers, a browser, and media made for them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.e2e.harness import SAMPLE, Server, launch
from tests.e2e.scripted import Script


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = launch(tmp_path_factory.mktemp("server"))
    yield running
    assert running.stop() == 0


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Servers that a test may hurt."""
    started: list[Server] = []

    def start(*arguments: str, runtime: Path = tmp_path) -> Server:
        started.append(launch(runtime, *arguments))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.over()


@pytest.fixture(scope="session")
def chromium() -> str:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed: make test installs it, or apt-get install chromium")
    return path


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """One Chromium for the pages of a module; it has no camera and gets no permission."""
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
        running = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield running
        running.close()


@pytest.fixture
def script() -> Iterator[Script]:
    running = Script()
    yield running
    running.close()


@pytest.fixture(scope="session")
def camera_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sample call as fake camera (.mjpeg) and fake microphone (.wav) for Chromium."""
    folder = tmp_path_factory.mktemp("camera")
    picture, sound = folder / "camera.mjpeg", folder / "microphone.wav"
    with av.open(str(SAMPLE)) as source, av.open(str(picture), "w", format="mjpeg") as out:
        stream = source.streams.video[0]
        video = out.add_stream("mjpeg", rate=stream.average_rate)
        video.width, video.height = stream.width, stream.height
        video.pix_fmt = "yuvj420p"
        for count, frame in enumerate(source.decode(stream)):
            if count >= 200:
                break
            out.mux(video.encode(frame.reformat(format="yuvj420p")))
        out.mux(video.encode(None))
    with av.open(str(SAMPLE)) as source, av.open(str(sound), "w") as out:
        audio = out.add_stream("pcm_s16le", rate=48000, layout="mono")
        resampler = av.AudioResampler("s16", "mono", 48000)
        for frame in source.decode(audio=0):
            for part in resampler.resample(frame):
                out.mux(audio.encode(part))
        out.mux(audio.encode(None))
    return picture, sound
