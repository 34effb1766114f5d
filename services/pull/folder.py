"""All files of one publication into one folder, each held to its digest.

A digest comes from the person (``SHA256SUMS`` by a trusted way) or, when the person says so, from
the first time: what came then is written down, and everything later is held against it.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pipeline.errors import UsageError
from services.pull import sums
from services.pull.download import Fetcher, Patience, Told, address
from services.pull.errors import Missing, PullFailed
from services.pull.part import Part
from services.pull.public import INDEX, WEIGHTS, Public

WEIGHTS_AT_MOST: Final = 16 << 30
TEXT_AT_MOST: Final = 64 << 20
PARTS_AT_MOST: Final = 64
_HEADER_AT_MOST: Final = 100 << 20
_LOCK: Final = ".demeanor-pull.lock"
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

State = Literal["there", "fetched", "absent"]
Begun = Callable[[str], Told]
"""Told a file's name as it begins; returns what is told its progress."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be pulled, from where, and what it is held against."""

    public: Public
    places: str
    """Address of a file with ``{repo}``, ``{revision}`` and ``{file}``."""
    revision: str
    folder: Path
    digests: dict[str, str]
    """By file name."""
    trust_first: bool = False
    """Take what has no digest yet, and write its digest down."""


@dataclass(slots=True)
class Pulled:
    """What became of each file."""

    states: dict[str, State] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


def check(order: Order) -> None:
    """Refuse an order that cannot be held to anything. Raises :class:`UsageError`."""
    if not _REVISION.fullmatch(order.revision):
        raise UsageError(f"'{order.revision}' is no revision: give a commit, tag or branch name")
    if order.trust_first:
        return
    public, known = order.public, order.digests
    lacking = [name for name in public.needed if name not in known]
    if public.weights and WEIGHTS not in known and INDEX not in known:
        lacking.append(WEIGHTS)
    if lacking:
        raise UsageError(
            f"no digest is known of {', '.join(lacking)} of {public.name}: give --sha256sums FILE "
            "(lines of sha256sum, from somebody you trust), or --trust-first to accept what comes "
            "now and hold later pulls against it"
        )


async def pull(
    order: Order, begun: Begun, pulled: Pulled, patience: Patience | None = None
) -> None:
    """Fetch what is not there yet; ``pulled`` tells how far it came, also when this raises.

    Raises :class:`UsageError` and :class:`PullFailed`, each a sentence that says what to do.
    """
    check(order)
    folder = order.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}") from None
    proxies = order.places.startswith("https:")
    with _alone(folder):
        async with Fetcher(patience or Patience(), proxies=proxies) as fetcher:
            pulled.digests = dict(order.digests)
            work = _Work(order, fetcher, begun, pulled)
            async for name, state in work.all():
                pulled.states[name] = state


class _Work:
    """One pull."""

    def __init__(self, order: Order, fetcher: Fetcher, begun: Begun, pulled: Pulled) -> None:
        self._order = order
        self._fetcher = fetcher
        self._begun = begun
        self._pulled = pulled
        self._file = order.folder / sums.FILE
        self._proven = sums.read(self._file) if self._file.is_file() else {}
        """What was held to its digest here, now or earlier."""

    async def all(self) -> AsyncIterator[tuple[str, State]]:
        """Fetch small files first: what is wrong shows before gigabytes came."""
        public = self._order.public
        for name in public.needed:
            yield name, await self._one(name)
        for name in public.wished:
            yield name, await self._if_there(name)
        if not public.weights:
            return
        if WEIGHTS in self._pulled.digests or INDEX not in self._pulled.digests:
            state = await self._if_there(WEIGHTS)
            if state != "absent":
                yield WEIGHTS, state
                return
        state = await self._if_there(INDEX)
        if state == "absent":
            raise PullFailed(
                f"{public.repository} has no *.safetensors at this revision; pickles, which can "
                "run code when read, are never fetched: choose another revision"
            )
        yield INDEX, state
        for name in _parts(self._order.folder / INDEX):
            yield name, await self._one(name)

    async def _if_there(self, name: str) -> State:
        if name not in self._pulled.digests and not self._order.trust_first:
            return "absent"
        try:
            return await self._one(name)
        except Missing:
            if name in self._pulled.digests:
                raise
            return "absent"

    async def _one(self, name: str) -> State:
        wanted = self._pulled.digests.get(name)
        if wanted is None and not self._order.trust_first:
            raise PullFailed(f"no digest is known of {name}: add it to the list of digests")
        target = self._order.folder / name
        url = address(self._order.places, self._order.public.repository, self._order.revision, name)
        told = self._begun(name)
        if wanted is not None and target.is_file() and _digest(target, told) == wanted:
            self._note(name, wanted)
            return "there"
        most = WEIGHTS_AT_MOST if name.endswith(".safetensors") else TEXT_AT_MOST
        with Part(target, url) as part:
            try:
                await self._fetcher.fetch(url, part, most, told)
            except Missing:
                part.drop()
                raise
            self._judge(part, wanted)
            part.finish()
        return "fetched"

    def _judge(self, part: Part, wanted: str | None) -> None:
        """Hold what came to its digest, or note it; what is wrong is removed."""
        name, got = part.target.name, part.digest()
        if wanted is not None and got != wanted:
            part.drop()
            raise PullFailed(
                f"{name} is not the file that its digest promises (sha256 {got[:16]}…, promised "
                f"{wanted[:16]}…): it was removed; check the revision and where the digest is from"
            )
        complaint = implausible(part.path, name)
        if complaint:
            part.drop()
            raise PullFailed(f"{name} {complaint}: it was removed; check the address")
        self._note(name, got)

    def _note(self, name: str, digest: str) -> None:
        self._pulled.digests[name] = digest
        if self._proven.get(name) != digest:
            self._proven[name] = digest
            sums.write(self._file, self._proven)


def implausible(path: Path, name: str) -> str | None:
    """Return what is wrong with a file of that name, or None: a log-in page is no model."""
    if name.endswith(".safetensors"):
        return _not_safetensors(path)
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
        if name.endswith(".json"):
            json.loads(text)
    except (UnicodeDecodeError, ValueError):
        return "is not the text or JSON that its name says"
    if text.lstrip()[:1] == "<":
        return "is a web page"
    return None


def _not_safetensors(path: Path) -> str | None:
    """Hold the file to its own header: eight bytes of length, JSON, and as much data as it says."""
    size = path.stat().st_size
    with path.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(_HEADER_AT_MOST, size - 8):
            return "is not in the safetensors format"
        try:
            header = json.loads(opened.read(length))
            ends = [each["data_offsets"][1] for key, each in header.items() if key[:2] != "__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "is not in the safetensors format"
    return None if 8 + length + max(ends, default=0) == size else "is cut short or too long"


def _parts(index: Path) -> list[str]:
    """Return the files that an index of split weights names."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        names = []
    fits = all(
        isinstance(name, str) and sums.plain(name) and name.endswith(".safetensors")
        for name in names
    )
    if not names or not fits or len(names) > PARTS_AT_MOST:
        raise PullFailed(f"{index} does not name the parts of a model: check the revision")
    return names


def _digest(path: Path, told: Told) -> str:
    total, done = hashlib.sha256(), 0
    size = path.stat().st_size
    with path.open("rb") as opened:
        while chunk := opened.read(1 << 22):
            total.update(chunk)
            done += len(chunk)
            told(done, size)
    return total.hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second pull out of the folder: two would write into one file."""
    held = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another pull is at work in {folder}: wait for it") from None
        yield
        (folder / _LOCK).unlink(missing_ok=True)
    finally:
        os.close(held)
