"""Metrics: the counters and gauges that Prometheus reads at /metrics, in a registry of the server's own."""

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
        # Disables prometheus_client's ``_created`` series.
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
        # A cache, because looking up labels takes a lock and a hash for every request.
        self._of_request: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request and its seconds."""
        series = self._of_request.get((path, status))
        if series is None:
            series = (self._requests.labels(path, str(status)), self._request_seconds.labels(path))
            self._of_request[path, status] = series
        series[0].inc()
        series[1].observe(seconds)

    def refused(self, status: int) -> None:
        """Count a connection that was refused before it had sent a request."""
        self._requests.labels("connection", str(status)).inc()

    def text(self, task: str, seconds: float) -> None:
        """Count a text and the seconds that a worker took for it."""
        self._text_seconds.labels(task).observe(seconds)

    def gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is computed whenever Prometheus asks."""
        Gauge(f"edge_imdb_{name}", description, registry=self.registry).set_function(value)

    def page(self) -> tuple[bytes, str]:
        """All metrics in Prometheus's text format, and the content type of that format."""
        return bytes(generate_latest(self.registry)), str(CONTENT_TYPE_LATEST)
