"""What a process that holds media does against leaving any of it behind.

Called once, at the edge, by commands that take live media. A crash then writes no image of memory
to disk, and no other process of the same user may read this one's memory.
"""

import ctypes
import resource
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def harden() -> None:
    """Allow no memory image on disk (``RLIMIT_CORE`` 0) and no reading of memory by others.

    The second is ``PR_SET_DUMPABLE`` 0, which Linux has; child programs get it back with ``exec``,
    the limit they inherit.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
