"""Which decoded frames become pictures that windows see: the first of each quarter second.

Media ticks come in, a yes or no goes out. It knows nothing of pixels, so a decoder asks *before* it
scales and converts: on a 30 fps stream seven of eight frames are never converted.
"""

from pipeline.types import FRAME_CELL_TICKS


class FrameSampler:
    """Picks one frame for each cell of :data:`~pipeline.types.FRAME_CELL_TICKS`; one per track."""

    def __init__(self) -> None:
        self._cell = -1

    def keeps(self, at: int) -> bool:
        """Tell whether the frame shown at tick ``at`` is the first of a cell not seen yet.

        Cells lie at fixed places on the media clock, so the choice does not depend on where a
        stream was joined. An older cell, and anything before tick 0, is never opened again.
        """
        cell = at // FRAME_CELL_TICKS
        if cell <= self._cell:
            return False
        self._cell = cell
        return True
