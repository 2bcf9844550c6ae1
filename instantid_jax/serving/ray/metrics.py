"""Metrics of a replica, among those that Ray exports on its node."""

from prometheus_client import CollectorRegistry
from ray.serve.metrics import Gauge


class Exported:
    """Copies a registry's numbers into Ray's.

    All of them become gauges, counters and buckets too: their values are what they are, and `rate`
    works on them.
    """

    def __init__(self, registry: CollectorRegistry):
        self._registry = registry
        self._gauges: dict[str, Gauge] = {}

    def update(self) -> None:
        """Copies the numbers of this moment."""
        for metric in self._registry.collect():
            for sample in metric.samples:
                gauge = self._gauges.get(sample.name)
                if gauge is None:
                    gauge = Gauge(sample.name, metric.documentation, tuple(sample.labels))
                    self._gauges[sample.name] = gauge
                gauge.set(sample.value, dict(sample.labels))
