"""Figures for Prometheus, on a port of their own."""

import threading
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, start_http_server

from fastagi.contract import METRIC_REPAIRS


class Metrics:
    """One process's figures. Counting is cheap, and works whether they are served or not."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._repairs = Counter(
            METRIC_REPAIRS,
            "Differences between the store and Asterisk's queues that were repaired or adopted",
            ["asterisk", "kind"],
            registry=self.registry,
        )
        self._close: Callable[[], None] = lambda: None

    def repaired(self, asterisk: str, kind: str, count: int) -> None:
        self._repairs.labels(asterisk, kind.replace(" ", "_")).inc(count)

    def serve(self, host: str, port: int) -> None:
        """Answers in a thread, until ``close``. Raises OSError."""
        server: Any
        thread: threading.Thread
        server, thread = start_http_server(port, host, self.registry)

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join(1.0)

        self._close = close

    def close(self) -> None:
        self._close()
