"""Judge single pictures with the production nets.

Comes in: image files of any size, colour or grey. Goes out: seven probabilities for each one's
largest face, or why there are none. Pictures are scaled to the width that live frames have.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import MediaError
from pipeline.graphs import Floats
from pipeline.types import MAX_WIDTH_PX
from pipeline.vision import Vision

WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box of a picture that is a face already."""

Rgb = NDArray[np.uint8]


def read(path: Path) -> Rgb:
    """Return a picture, upright, as (height, width, 3), at most 320 px wide.

    Raises :class:`MediaError` when the file is no picture or a damaged one.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path.name} is no picture that can be read: {error}") from None
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's decoders raise all three
        raise MediaError(f"{path.name} is damaged: {error}") from None
    if upright.width > MAX_WIDTH_PX:
        height = max(round(upright.height * MAX_WIDTH_PX / upright.width), 1)
        upright = upright.resize((MAX_WIDTH_PX, height), Image.Resampling.BOX)
    return np.asarray(upright, np.uint8)


def judge(vision: Vision, pictures: Sequence[Rgb], *, cropped: bool) -> list[Floats | str]:
    """Return probabilities (7,), or the reason why there are none, for each picture."""
    if cropped:
        return [_whole(vision, picture) for picture in pictures]
    answers: list[Floats | str] = []
    for seen in vision.read(pictures):
        if seen is None:
            answers.append("bad_output")
        else:
            answers.append(seen.faces[0].probabilities if seen.faces else "no_face")
    return answers


def _whole(vision: Vision, picture: Rgb) -> Floats | str:
    return vision.look([picture], np.array([WHOLE], np.float32))[0].probabilities
