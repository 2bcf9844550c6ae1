"""Metrics in Prometheus' format."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)
OTHER = "other"


class Metrics:
    """Counts requests, images and seconds; asks the engine for its own numbers.

    Args:
      status: the engine's numbers, as a dataclass.
      gauges: other numbers, by name.
    """

    def __init__(self, status: Callable[[], Any], gauges: dict[str, Callable[[], float]]):
        self.registry = CollectorRegistry()
        self.registry.register(_Status(status))
        self.requests = Counter(
            "instantid_requests", "requests", ("route", "status"), registry=self.registry
        )
        self.images = Counter("instantid_images", "images sent", registry=self.registry)
        self.left = Counter(
            "instantid_clients_left", "requests whose client left", registry=self.registry
        )
        self.waiting = self._histogram("instantid_queue_seconds", "time in the queue")
        self.seconds = self._histogram("instantid_seconds", "time from the queue to the images")
        for name, number in gauges.items():
            Gauge(f"instantid_{name}", name, registry=self.registry).set_function(number)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, buckets=SECONDS, registry=self.registry)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self.registry)


class _Status:
    """Collects the numbers of the engine's status when they are asked for."""

    def __init__(self, status: Callable[[], Any]):
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for field in dataclasses.fields(status):
            name, value = f"instantid_engine_{field.name}", getattr(status, field.name)
            if isinstance(value, int | float):
                yield GaugeMetricFamily(name, field.name, value=value)
            elif isinstance(value, Mapping):
                family = GaugeMetricFamily(name, field.name, labels=("kind",))
                for kind, number in value.items():
                    family.add_metric((str(kind),), number)
                yield family


class Measured:
    """ASGI middleware: counts answers by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]):
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A label for every path that is tried would fill the memory.
        route = scope["path"] if scope["path"] in self._routes else OTHER

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counted)
