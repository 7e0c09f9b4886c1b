"""Metrics: what /metrics tells Prometheus, in a registry of the server's own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """Requests by path and status, texts by task, seconds of both, and gauges of the queue."""

    def __init__(self) -> None:
        # A second line for every first, with the time at which it was first written.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._requests = Counter("edge_imdb_requests", "Requests answered.", ("path", "status"), registry=self.registry)
        self._request_seconds = Histogram(
            "edge_imdb_request_seconds",
            "Seconds from a request's headers to its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._text_seconds = Histogram(
            "edge_imdb_text_seconds",
            "Seconds that a worker took for a text.",
            ("task",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        # Labels are looked up once; looking them up takes a lock and a hash for every request.
        self._of_request: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        found = self._of_request.get((path, status))
        if found is None:
            found = (self._requests.labels(path, str(status)), self._request_seconds.labels(path))
            self._of_request[path, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def refused(self, status: int) -> None:
        """Count a connection that was answered before it had sent a request."""
        self._requests.labels("connection", str(status)).inc()

    def text(self, task: str, seconds: float) -> None:
        """Count a text that was worked on."""
        self._text_seconds.labels(task).observe(seconds)

    def gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when Prometheus asks."""
        Gauge(f"edge_imdb_{name}", description, registry=self.registry).set_function(value)

    def page(self) -> tuple[bytes, str]:
        """Everything, in Prometheus's text format, and the name of that format."""
        return bytes(generate_latest(self.registry)), str(CONTENT_TYPE_LATEST)
