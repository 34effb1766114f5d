"""The explain process: one model, one question at a time, nicer than whatever scores.

Questions come on standard input, answers go to standard output; it ends with its parent, whose
death closes both. ``python -m services.explain.child FOLDER OPTIONS``.
"""

import os
import queue
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec
import numpy as np

from pipeline.errors import DemeanorError, UsageError
from services import hardening
from services.explain import wire
from services.explain.options import Options

if TYPE_CHECKING:
    from services.explain.model import Explainer, Moment, Opinion

NICE: Final = 10
_WAITING: Final = 2
"""Questions that may lie here; the parent sends one at a time."""


class _Inbox:
    """Reads standard input on a thread of its own, so that a question can be called off."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._asks: queue.Queue[wire.Ask] = queue.Queue(_WAITING)
        self._called_off = -1
        threading.Thread(target=self._read, name="explain-inbox", daemon=True).start()

    def next(self) -> wire.Ask:
        return self._asks.get()

    def wanted(self, number: int) -> bool:
        return self._called_off < number

    def _read(self) -> None:
        while True:
            head = self._stream.read(wire.LENGTH_BYTES)
            size = int.from_bytes(head, "big")
            if len(head) < wire.LENGTH_BYTES or size > wire.MAX_ASK_BYTES:
                os._exit(0)  # the parent is gone; nothing of what is here is to be kept
            message = wire.asks.decode(self._stream.read(size))
            if isinstance(message, wire.Cancel):
                self._called_off = max(self._called_off, message.number)
            else:
                self._asks.put(message)


def main() -> int:
    """Open the model and answer until the parent is gone."""
    os.nice(NICE)
    hardening.harden()
    out = sys.stdout.buffer
    options = msgspec.json.decode(sys.argv[2].encode(), type=Options)
    inbox = _Inbox(sys.stdin.buffer)  # before the model: a parent that dies now is noticed too
    try:
        explainer = _opened(Path(sys.argv[1]), options)
    except DemeanorError as error:
        _say(out, wire.Refused(str(error)))
        return 1
    made = explainer.engine.manifest
    _say(out, wire.Hello(explainer.identity, made.precision, options.device))
    while True:
        _say(out, _answer(explainer, inbox.next(), inbox))


def _opened(folder: Path, options: Options) -> "Explainer":
    try:
        from services.explain.model import open_explainer  # noqa: PLC0415 - an optional part
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the explain tier needs {error.name}: run 'make explain', or pip install "
            "'demeanor[explain]'"
        ) from None
    explainer = open_explainer(folder, options)
    explainer.warm()
    return explainer


def _answer(explainer: "Explainer", ask: wire.Ask, inbox: _Inbox) -> wire.Answer | wire.Failed:
    try:
        opinion = explainer.ask(
            _moment(ask), words=ask.words, wanted=lambda: inbox.wanted(ask.number)
        )
    except (DemeanorError, ValueError, RuntimeError) as error:
        return wire.Failed(ask.number, type(error).__name__)
    return _told(ask.number, opinion)


def _moment(ask: wire.Ask) -> "Moment":
    from services.explain.model import Moment  # noqa: PLC0415 - see _opened

    frames = [
        (each.name, np.frombuffer(each.rgb, np.uint8).reshape(each.height, each.width, 3))
        for each in ask.pictures
    ]
    sound = None if ask.sound is None else np.frombuffer(ask.sound, np.int16)
    return Moment(frames, sound)


def _told(number: int, opinion: "Opinion") -> wire.Answer:
    scores, explained = opinion.scores, opinion.explained
    return wire.Answer(
        number=number,
        labels=dict(zip(scores.labels, scores.probabilities, strict=True)),
        top=scores.top,
        margin=scores.margin,
        entropy=scores.entropy,
        prefix=scores.prefix,
        audio=opinion.audio,
        took_ms=opinion.took_ms,
        thinking=explained.thinking if explained else None,
        label=explained.label if explained else "",
        raw=explained.raw if explained else "",
        truncated=explained.truncated if explained else False,
    )


def _say(out: BinaryIO, message: wire.FromChild) -> None:
    out.write(wire.framed(message))
    out.flush()


if __name__ == "__main__":
    os._exit(main())  # its inbox still reads, which Python would wait for
