"""The call that the live benchmarks publish: the sample, 640x360 at 30 pictures a second.

It is encoded as publishers send it (H264 without B-frames, Opus), so `push` copies it packet by
packet and costs the machine nothing but sending.
"""

from pathlib import Path

import av

from tests.e2e.harness import SAMPLE

WIDTH_PX, HEIGHT_PX, FPS = 640, 360, 30
VIDEO_BITS_PER_S, AUDIO_BITS_PER_S = 800_000, 32_000
_H264 = {"profile": "baseline", "preset": "veryfast", "bf": "0", "g": str(FPS)}


def make(folder: Path) -> Path:
    """Write the clip into ``folder`` and return its path."""
    path = folder / "call-640x360.mkv"
    with av.open(str(path), "w") as target, av.open(str(SAMPLE)) as source:
        video = target.add_stream("libx264", rate=FPS, options=_H264)
        video.width, video.height, video.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        video.bit_rate = VIDEO_BITS_PER_S
        audio = target.add_stream("libopus", rate=48_000, layout="stereo")
        audio.bit_rate = AUDIO_BITS_PER_S
        graph = _pictures(source.streams.video[0])
        resampler = av.AudioResampler("flt", "stereo", 48_000, frame_size=960)
        for frame in source.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                graph.push(frame)
                for picture in _pulled(graph):
                    target.mux(video.encode(picture))
            else:
                for sound in resampler.resample(frame):
                    target.mux(audio.encode(sound))
        target.mux(video.encode(None))
        target.mux(audio.encode(None))
    return path


def _pictures(stream):
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_buffer(template=stream),
        graph.add("crop", f"{WIDTH_PX}:{HEIGHT_PX}"),
        graph.add("fps", str(FPS)),
        graph.add("format", "yuv420p"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _pulled(graph):
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        frame.pict_type = 0
        yield frame
