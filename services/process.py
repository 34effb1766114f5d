"""The life of the composed process: whether it is well, and how it ends without losing anything."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from pipeline.events import LoadedModel
from services.ending import Ending
from services.gateway.app import Gateway
from services.gateway.health import OK, Drained, Vitals
from services.ingest.decoding import Decoding
from services.ingest.whip import Whip
from services.load import Meter
from services.scorer.loop import ScoringLoop
from services.settings import Settings

SESSIONS_END_S: Final = 18.0
"""How long sessions may take to be written out; while the bus is away that is in vain."""
SETTLE_S: Final = 2.0
"""How long readers may take to get the last events."""
HUNG_S: Final = 20.0
"""A scorer that hangs for this long is waited for no more."""
_ANSWER_FIRST_S: Final = 0.1
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Process:
    """What all services of one process have to say about it."""

    settings: Settings
    model: LoadedModel
    scoring: ScoringLoop
    meter: Meter
    gateway: Gateway
    whip: Whip
    decoding: Decoding
    ending: Ending

    def vital(self) -> dict[str, Callable[[], bool]]:
        """Name what must live; a scorer that hangs cannot be ended, so the process is."""
        return {
            "the gateway's hub": lambda: self.gateway.hub.running,
            "the live feed of the bus": lambda: self.gateway.bus.feeding,
            "the reader of standing orders": lambda: self.gateway.orders.running,
            "the decoder's supervisor": lambda: self.decoding.running,
            "the watch over tokens": lambda: self.gateway.watching,
            "the watch over readers": lambda: self.gateway.watching,
            "the watch over publishers": lambda: self.whip.running,
            "the meter": lambda: self.meter.running,
            "the scorer": lambda: self.scoring.hung_s < HUNG_S,
        }

    def vitals(self) -> Vitals:
        """Return what health asks of this process."""
        return Vitals(
            lag_s=self.meter.lag_s,
            checks={
                "draining": lambda: "draining" if self.whip.admission.draining else OK,
                "model": self._model,
                "device": self._device,
                "scorer": lambda: self.scoring.fault or OK,
                "ingest": lambda: OK if self.whip.running else "a task of ingest has ended",
                "load": lambda: OK if self.meter.running else "a task of the meter has ended",
                "capacity": self._capacity,
            },
            told=self._told,
            drain=self._asked_to_drain,
        )

    async def drain(self) -> None:
        """End what runs, lose nothing: sessions first, so that readers get their last events."""
        self.whip.drain()
        await self.ending.patience(lambda: self.whip.live)
        _log.info("draining", streams=self.whip.live)
        try:
            async with asyncio.timeout(SESSIONS_END_S):
                await self.whip.end_all()
        except TimeoutError:
            _log.warning("sessions do not end in time", streams=self.whip.live)
        await self.gateway.settle(SETTLE_S)
        await self.gateway.drain()

    def _model(self) -> str:
        """Files were checked and every graph was run before any door opened, or none would be."""
        return OK if self.model.digest else "no model is loaded"

    def _device(self) -> str:
        wanted = self.settings.device.upper()
        return OK if wanted in self.model.providers else f"the models do not run on {wanted}"

    def _capacity(self) -> str:
        refused = self.whip.admission.refusal(self.whip.live)
        return OK if refused is None or refused.code == "draining" else refused.code

    def _told(self) -> dict[str, object]:
        return {
            "streams": {"live": self.whip.live, "most": self.settings.max_streams},
            "degraded": self.meter.rung.word,
        }

    def _asked_to_drain(self, soft_s: int | None) -> Drained:
        self.whip.drain()
        soft_s = self.settings.drain_soft_s if soft_s is None else soft_s
        asyncio.get_running_loop().call_later(_ANSWER_FIRST_S, self.ending.soft, soft_s)
        return Drained(draining=True, soft_s=soft_s, live=self.whip.live)
