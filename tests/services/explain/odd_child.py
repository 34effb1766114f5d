"""The explain process with one thing changed: ``odd_child.py held GATE …``, ``bare``, ``stuck``.

``held`` answers nothing before the file GATE exists, so that a test decides when; ``bare`` runs
where the library ``tokenizers`` is not installed; ``stuck`` never gets its model open.
"""

import os
import sys
import time
from pathlib import Path

from services.explain import child

kind = sys.argv.pop(1)
if kind == "bare":
    sys.modules["tokenizers"] = None  # importing it then raises what it would
elif kind == "stuck":
    child._opened = lambda *_: time.sleep(3600)
else:
    gate = Path(sys.argv.pop(1))
    answer = child._answer

    def held(explainer, ask, inbox):
        while not gate.exists():
            time.sleep(0.01)
        return answer(explainer, ask, inbox)

    child._answer = held

os._exit(child.main())
