"""Read an audio file of any container and codec that FFmpeg knows as one mono float array.

The only place in the exporters that imports PyAV. Whole files only: live media has its own door.
"""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MediaError

RATE_HZ = 16_000


def read_audio(path: Path, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    """Return the file's first audio track, mixed to mono, shape ``(samples,)``, range [-1, 1].

    ``rate_hz`` other than 16 000 resamples to that rate; reading the result as 16 kHz then changes
    speed and pitch together, which is how the training data is widened. Raises
    :class:`MediaError` when the file holds no audio that can be decoded.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise MediaError(f"{path} has no audio track: give a file with sound")
            resampler = av.AudioResampler(format="fltp", rate=rate_hz)
            parts = [
                piece.to_ndarray().mean(axis=0)
                for frame in container.decode(container.streams.audio[0])
                for piece in resampler.resample(frame)
            ]
            parts += [piece.to_ndarray().mean(axis=0) for piece in resampler.resample(None)]
    except av.FFmpegError as error:
        raise MediaError(f"{path} cannot be decoded ({error.strerror}): is it audio?") from error
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}") from error
    if not parts:
        raise MediaError(f"{path} holds no audio samples")
    return np.concatenate(parts).astype(np.float32, copy=False)
