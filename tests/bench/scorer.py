"""What scoring costs: ``python -m tests.bench.scorer [SECONDS]``.

Windows of the bundled sample call go through the built-in models, one session or several in step.
Printed are CPU milliseconds of the scoring thread per window, with nothing remembered (cold) and
in the steady state of overlapping windows (warm), the share spent inside ONNX Runtime, and what
follows from them. CPU time is counted, so other load disturbs little; ratios are what counts.
"""

import sys
from contextlib import closing
from pathlib import Path
from time import thread_time

import services.web
from pipeline.scorer import OrtScorer
from pipeline.types import SLOT_TICKS, TICKS_PER_S, AudioChunk, Batch, Gap, Job, VideoFrame
from pipeline.windowing import Windower
from services.ingest.items import Reached
from services.ingest.source import open_source

SAMPLE = Path(services.web.__file__).parent / "sample.webm"
WINDOWS_PER_S = TICKS_PER_S / SLOT_TICKS


def windows(seconds):
    windower, cut = Windower(audio=True, video=True), []
    with closing(open_source(str(SAMPLE))) as source:
        for item in source.items():
            if isinstance(item, AudioChunk | VideoFrame):
                windower.feed(item)
            elif isinstance(item, Reached):
                windower.reached(item.kind, item.tick)
            cut += [due for due in windower.take() if not isinstance(due, Gap)]
            if len(cut) >= seconds * WINDOWS_PER_S:
                break
    return cut


class Meter:
    """Adds up the CPU time inside ONNX Runtime, per graph."""

    def __init__(self, scorer):
        self.spent = {}
        for session in scorer._sessions.values():
            session.run = self._timed(session.file, session.run)

    def _timed(self, name, run):
        def timed(outputs, feeds):
            start = thread_time()
            try:
                return run(outputs, feeds)
            finally:
                self.spent[name] = self.spent.get(name, 0.0) + thread_time() - start

        return timed


def score(cut, *, sessions, cold=False, step=1):
    """Return CPU ms a window, the share inside ONNX Runtime, and its parts in ms a window."""
    scorer = OrtScorer.open()
    meter = Meter(scorer)
    scorer.score(Batch((Job("warm-up", cut[0], 0, 0),)))
    meter.spent.clear()
    count, start = 0, thread_time()
    for window in cut[::step]:
        names = [f"s{number}" for number in range(sessions)]
        if cold:
            scorer.forget(names)
        scorer.score(Batch(tuple(Job(name, window, 0, 0) for name in names)))
        count += sessions
    took = thread_time() - start
    inside = sum(meter.spent.values()) / took
    parts = {name.removesuffix(".onnx"): 1000 * s / count for name, s in meter.spent.items()}
    return 1000 * took / count, inside, parts


def main():
    cut = windows(float(sys.argv[1]) if len(sys.argv) > 1 else 15)
    print(f"{len(cut)} windows of the sample call, CPU ms a window (share inside ONNX Runtime)")
    cold, inside, _ = score(cut[:12], sessions=1, cold=True)
    print(f"cold, 1 session    {cold:6.1f}  ({inside:.0%})")
    for sessions in (1, 4, 8):
        warm, inside, parts = score(cut, sessions=sessions)
        print(f"warm, {sessions} sessions   {warm:6.1f}  ({inside:.0%})")
    print("  " + "  ".join(f"{name} {ms:.1f}" for name, ms in sorted(parts.items())))
    rare, _, _ = score(cut, sessions=1, step=4)
    one, _, _ = score(cut, sessions=1)
    print(f"cost of overlap: hop 0.5 s / hop 2.0 s = {4 * one / rare:.2f} (goal 1.3)")
    print(f"one core scores about {1000 / (WINDOWS_PER_S * warm):.0f} live streams")


if __name__ == "__main__":
    main()
