"""RTP timestamps of one session's tracks on one line of media ticks.

RTP timestamps and sender reports come in, ticks go out. Every RTP clock starts at a random value
(RFC 3550 section 5.1), so tracks are tied together by arrival at first and by their sender
reports (section 6.4.1) as soon as both have one. Arrival times are arguments. Within a track all
arithmetic is on integers, so nothing drifts: 48 kHz sound and 90 kHz video stay exact for ever.
"""

from dataclasses import dataclass

from pipeline.types import TICKS_PER_MS, TICKS_PER_S, Gap, Kind

SILENT_SHIFT_TICKS = 80 * TICKS_PER_MS
"""Larger corrections between the tracks are announced."""
DEAD_BAND_TICKS = 10 * TICKS_PER_MS
"""Smaller disagreements between sender reports are left alone: senders' reports wander by a few
ms, and each shift of a sound track costs a crack."""
DISCONTINUITY_TICKS = 10 * TICKS_PER_S
"""A timestamp that leaps ahead of arrival, or back, by more than this is a new beginning."""

_WRAP = 1 << 32
_HALF = 1 << 31


def ntp_seconds(timestamp: int) -> float:
    """Turn a 64-bit NTP timestamp (32.32 fixed point, as in a sender report) into seconds."""
    return timestamp / _WRAP


@dataclass(frozen=True, slots=True)
class Jump:
    """A track was moved against the other by enough to announce it."""

    kind: Kind
    ticks: int
    """Positive: the track's media is later than thought."""
    at: int
    """Newest tick of the track before the correction."""

    @property
    def gap(self) -> Gap:
        """The announcement: the stretch that is skipped, or that comes twice."""
        ends = sorted((self.at, max(0, self.at + self.ticks)))
        return Gap(ends[0], ends[1], (self.kind,), "clock_jump")


@dataclass(slots=True)
class _Track:
    rate_hz: int
    begun: bool = False
    base: int = 0
    """Unwrapped RTP timestamp that ``offset`` belongs to."""
    offset: int = 0
    newest: int = 0
    """Highest unwrapped RTP timestamp so far, and when it arrived."""
    newest_s: float = 0.0
    reported: tuple[int, float] | None = None
    """The last sender report: RTP timestamp as sent, NTP seconds."""

    def begin(self, rtp: int, offset: int, now_s: float) -> None:
        self.begun = True
        self.base = self.newest = rtp
        self.offset = offset
        self.newest_s = now_s

    def unwrap(self, rtp: int) -> int:
        return self.newest + (rtp - self.newest + _HALF) % _WRAP - _HALF

    def tick(self, unwrapped: int) -> int:
        return self.offset + (unwrapped - self.base) * TICKS_PER_S // self.rate_hz

    def continues(self, unwrapped: int, now_s: float) -> bool:
        """Tell whether a timestamp is plausible; a stalled network and a burst after it are."""
        ahead = (unwrapped - self.newest) * TICKS_PER_S // self.rate_hz
        waited = max(0, _ticks(now_s - self.newest_s))
        return -DISCONTINUITY_TICKS <= ahead <= DISCONTINUITY_TICKS + waited

    def arriving(self, now_s: float) -> int:
        """Return the tick that a packet arriving at ``now_s`` would have if media kept pace."""
        return self.tick(self.newest) + max(0, _ticks(now_s - self.newest_s))


class MediaClock:
    """Maps the RTP timestamps of at most one track of each kind to ticks.

    The session's first packet is tick 0, and no tick is negative. ``now_s`` is any steady clock,
    the same for all calls. NTP times are float seconds (see :func:`ntp_seconds`); a double
    resolves 0.5 µs there, and only differences between the tracks are used.
    """

    def __init__(self) -> None:
        self.restarts: dict[Kind, int] = {"audio": 0, "video": 0}
        """How often a track's timestamps began anew; it was aligned by arrival again."""
        self.implausible_reports = 0
        """Sender reports that would have moved a track by more than ten seconds; ignored."""
        self._tracks: dict[Kind, _Track] = {}
        self._first: Kind | None = None
        self._anchor: tuple[int, float] | None = None
        """Newest tick of the first track and its arrival: where other tracks begin."""

    def add(self, kind: Kind, rate_hz: int) -> None:
        """Announce a track and its RTP clock rate.

        A second call replaces the track: the new one begins by arrival where the session is.
        """
        self._tracks[kind] = _Track(rate_hz)
        if self._first == kind:
            self._first = self._other(kind)

    def tick(self, kind: Kind, rtp: int, now_s: float) -> int:
        """Return the tick of a packet or frame with timestamp ``rtp`` that arrived at ``now_s``.

        Timestamps may wrap and arrive out of order. The second track's first packet is placed by
        the sender reports when both tracks have one, else by arrival beside the first track. A
        timestamp that leaps by hours restarts its track, by arrival.
        """
        track = self._tracks[kind]
        if not track.begun:
            self._begin(kind, rtp, now_s)
        unwrapped = track.unwrap(rtp)
        if not track.continues(unwrapped, now_s):
            self.restarts[kind] += 1
            track.begin(rtp, track.arriving(now_s), now_s)
            track.reported = None
            unwrapped = rtp
        if unwrapped > track.newest:
            track.newest, track.newest_s = unwrapped, now_s
        if kind == self._first:
            self._anchor = track.tick(track.newest), track.newest_s
        return max(0, track.tick(unwrapped))

    def report(self, kind: Kind, rtp: int, ntp_s: float) -> Jump | None:
        """Note a sender report: ``rtp`` and ``ntp_s`` name the same instant.

        Once both tracks have reports, the track that came second is moved to agree with the
        first. Returns the move when it is larger than 80 ms: announce its :attr:`Jump.gap`;
        smaller ones are applied in silence. An NTP time of zero means that the sender has no
        clock (RFC 3550 section 6.4.1) and is ignored.
        """
        track = self._tracks[kind]
        if ntp_s <= 0:
            return None
        track.reported = (rtp, ntp_s)
        second = self._other(self._first)
        return self._correct(second) if second else None

    def _begin(self, kind: Kind, rtp: int, now_s: float) -> None:
        tick, at_s = self._anchor or (0, now_s)
        self._tracks[kind].begin(rtp, tick + max(0, _ticks(now_s - at_s)), now_s)
        if self._first is None:
            self._first = kind
        else:
            self._correct(kind)

    def _other(self, kind: Kind | None) -> Kind | None:
        """Return the track that has begun and is not ``kind``."""
        return next((k for k, track in self._tracks.items() if track.begun and k != kind), None)

    def _correct(self, kind: Kind) -> Jump | None:
        """Move ``kind`` to where the sender reports of both tracks say it belongs."""
        shift = self._disagreement(kind)
        if abs(shift) <= DEAD_BAND_TICKS:
            return None
        if abs(shift) > DISCONTINUITY_TICKS:
            self.implausible_reports += 1
            return None
        track = self._tracks[kind]
        jump = Jump(kind, shift, max(0, track.tick(track.newest)))
        track.offset += shift
        return jump if abs(shift) > SILENT_SHIFT_TICKS else None

    def _disagreement(self, kind: Kind) -> int:
        """Return by how many ticks ``kind`` is too early; 0 unless both tracks have a report."""
        track = self._tracks[kind]
        first = self._tracks[self._first] if self._first else track
        if track.reported is None or first.reported is None:
            return 0
        (rtp, ntp_s), (first_rtp, first_ntp_s) = track.reported, first.reported
        apart = _ticks(ntp_s - first_ntp_s)
        return first.tick(first.unwrap(first_rtp)) + apart - track.tick(track.unwrap(rtp))


def _ticks(seconds: float) -> int:
    return round(seconds * TICKS_PER_S)
