"""Figures for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

if TYPE_CHECKING:
    from rung.engine import Engine
    from rung.server.access import Account

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """One application's figures, apart from those of any other in the process."""

    def __init__(self, engine: Engine):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        labels = ("route", "method", "status")
        self._requests = Counter("rung_requests", "Requests answered.", labels, registry=registry)
        self._seconds = Histogram(
            "rung_request_seconds", "From request to the end of its answer.", ("route",),
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._tokens = Counter(
            "rung_tokens", "Tokens read and drawn.", ("model", "kind"), registry=registry
        )
        gauges = (
            ("rung_requests_running", "Answers being drawn.", lambda: len(engine.scheduler.running)),
            ("rung_requests_waiting", "Answers in the queue.", lambda: len(engine.scheduler.waiting)),
            ("rung_models", "Models that can be asked.", lambda: len(engine.models)),
            ("rung_engine_alive", "1 while the engine runs.", lambda: float(engine.alive)),
        )
        for name, meaning, read in gauges:
            Gauge(name, meaning, registry=registry).set_function(read)
        self.jobs = Gauge(
            "rung_jobs", "Tuning jobs that have not ended.", ("status",), registry=registry
        )

    def request(
        self, route: str, method: str, status: int, seconds: float, account: Account | None
    ) -> None:
        """Count one answer. Routes are templates, and methods known ones, so that no client decides how
        many there are."""
        method = method if method in METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if account is not None and account.model:
            self._tokens.labels(account.model, "prompt").inc(account.asked)
            self._tokens.labels(account.model, "completion").inc(account.drawn)

    def text(self) -> bytes:
        """All of it in Prometheus' words."""
        return generate_latest(self.registry)
