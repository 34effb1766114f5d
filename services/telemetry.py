"""Logs: static text and key-value fields on stderr, never a score, a name or a token.

Lines for people on a terminal, one JSON object a line anywhere else. Libraries that log by
themselves are let through from warnings up. An exception is told by its type and by where it was
raised: its message may quote what a person sent. At level ``debug`` it is told in full.
"""

import logging
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Literal

import structlog

LogLevel = Literal["debug", "info", "warning", "error"]
_QUIET = ("aiortc", "aioice", "aiohttp", "websockets", "asyncio", "libav")
_FRAMES = 12
"""The innermost frames tell enough."""
_MEMBERS = 3
"""… and so do the first members of an exception group."""

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def configure(level: LogLevel) -> None:
    """Set up the logs of this process; called once, at the edge."""
    number = getattr(logging, level.upper())
    terminal = sys.stderr.isatty()
    told = structlog.processors.format_exc_info
    if number > logging.DEBUG:
        told = structlog.processors.ExceptionRenderer(_without_words)
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        told,
    ]
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=True)
        if terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*([] if number <= logging.DEBUG else [_first_line]), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def _first_line(
    _logger: object, _method: str, entry: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Cut what libraries put below their message: asyncio's tells the exception's words."""
    entry["event"] = str(entry["event"]).partition("\n")[0]
    return entry


def _without_words(exc_info: _ExcInfo) -> str:
    """Return ``KeyError at hub.py:40 feed < app.py:12 run``: types and places, no values."""
    return _told(exc_info[1])


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    told = f"{type(error).__name__} at {' < '.join(reversed(places)) or 'nowhere'}"
    if isinstance(error, BaseExceptionGroup):
        told += f" ({', '.join(_told(each) for each in error.exceptions[:_MEMBERS])})"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{told}; from {_told(cause)}" if cause else told
