"""``/metrics`` for Prometheus: base units, and never the name of a session or a person."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.queues import Registry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Source = Callable[[], Mapping[str, float | Mapping[str, float]]]
"""Numbers by name; a mapping instead of a number is one by ``reason``."""


class Metrics:
    """Everything this process counts. A source's ``…_total`` is a counter, the rest are gauges."""

    def __init__(self, queues: Registry, sources: Mapping[str, Source]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Queues(queues))
        for room, source in sources.items():
            self._registry.register(_Room(room, source))

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self._registry)


class _Queues(Collector):
    def __init__(self, queues: Registry) -> None:
        self._queues = queues

    def collect(self) -> Iterable[Metric]:
        depth = GaugeMetricFamily(
            "demeanor_queue_depth", "Items waiting, all queues of a label.", labels=["queue"]
        )
        bound = GaugeMetricFamily(
            "demeanor_queue_bound",
            "Most items in one queue of a label, and what happens then.",
            labels=["queue", "unit", "rule"],
        )
        dropped = CounterMetricFamily(
            "demeanor_queue_dropped", "Items dropped, by reason.", labels=["queue", "reason"]
        )
        for item in self._queues.statistics():
            kind = item.kind
            depth.add_metric([kind.name], item.depth)
            bound.add_metric([kind.name, kind.unit, kind.rule], kind.bound)
            for reason, count in (item.dropped or {kind.rule: 0}).items():
                dropped.add_metric([kind.name, reason], count)
        return (depth, bound, dropped)


class _Room(Collector):
    def __init__(self, room: str, source: Source) -> None:
        self._room = room
        self._source = source

    def collect(self) -> Iterable[Metric]:
        for name, value in self._source().items():
            full = f"demeanor_{self._room}_{name.removesuffix('_total')}"
            words = f"{name.replace('_', ' ')} of the {self._room}."
            if isinstance(value, Mapping):
                counter = CounterMetricFamily(full, words, labels=["reason"])
                for reason, count in value.items():
                    counter.add_metric([reason], count)
                yield counter
                continue
            if name.endswith("_total"):
                yield CounterMetricFamily(full, words, value=value)
            else:
                yield GaugeMetricFamily(full, words, value=value)
