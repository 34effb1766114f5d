"""The ``demeanor`` command, one thin file a verb."""

import os

# Windows are scored on one thread a process; BLAS threads of their own only fight over the cores.
# It must stand before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
