"""How the trigger is, for those who watch it: a health file, Prometheus metrics, and systemd's watchdog.

What is wrong is found out elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tomopipe.functions.errors import InputError, TomopipeError
from tomopipe.functions.rundir import write_json

from .ledger import Ledger

_log = logging.getLogger(__name__)

HEALTH_FORMAT = "tomopipe-trigger-health/1"


def write_health(path: Path, health: dict[str, Any]) -> None:
    """Write the health file whole; a disk that is full keeps no scan waiting."""
    try:
        write_json(path, {"format": HEALTH_FORMAT, **health})
        path.chmod(0o644)
    except OSError as error:
        _log.error("%s: the health file cannot be written (%s)", path, error)


def tell_systemd(*words: str) -> None:
    """Tell systemd how the service is (`READY=1`, `WATCHDOG=1`), where it asked for that."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    place = f"\0{address[1:]}" if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(1.0)
        channel.sendto("\n".join(words).encode(), place)


class Metrics:
    """Serves Prometheus metrics on this machine alone.

    Parameters
    ----------
    port : int
        0 takes a free one.
    ledger : Ledger
    health : callable
        Gives the health as the health file has it.
    """

    def __init__(self, port: int, ledger: Ledger, health: Callable[[], dict[str, Any]]) -> None:
        self._ledger, self._health = ledger, health
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            raise InputError(
                "monitoring.metrics_port: needs prometheus-client; install it with: pip install 'tomopipe[trigger]', or "
                "leave metrics_port out"
            ) from None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=registry)
        except OSError as error:
            raise InputError(
                f"monitoring.metrics_port={port}: cannot be used ({error.strerror}); give another port"
            ) from error

    @property
    def port(self) -> int:
        """The port that is served."""
        return int(self._server.server_port)

    def collect(self) -> Iterable[Any]:
        """The metrics as they are now; Prometheus' client calls this."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        health = self._health()
        up = GaugeMetricFamily("tomopipe_trigger_worker_alive", "Whether a worker works", labels=["worker"])
        for name, worker in health["workers"].items():
            up.add_metric([name], float(worker["alive"]))
        yield up
        sources = GaugeMetricFamily("tomopipe_trigger_source_alive", "Whether a source works", labels=["source"])
        events = GaugeMetricFamily(
            "tomopipe_trigger_source_last_event_seconds", "When a source last noticed something", labels=["source"]
        )
        for name, source in health["sources"].items():
            sources.add_metric([name], float(bool(source.get("alive"))))
            if source.get("last_event") is not None:
                events.add_metric([name], float(source["last_event"]))
        yield sources
        yield events
        observed = CounterMetricFamily("tomopipe_trigger_observations", "What sources reported", labels=["came_to"])
        for what, count in health["observations"].items():
            observed.add_metric([what], count)
        yield observed
        try:
            counts, oldest = self._ledger.counts(), self._ledger.oldest("ready")
        except TomopipeError as error:
            _log.warning("metrics: %s", error)
            return
        scans = GaugeMetricFamily("tomopipe_trigger_scans", "Scans in the ledger", labels=["state"])
        for state, count in counts.items():
            scans.add_metric([state], count)
        yield scans
        yield GaugeMetricFamily(
            "tomopipe_trigger_oldest_ready_seconds", "When the scan became ready that waits the longest, 0 for none",
            value=oldest or 0.0,
        )  # fmt: skip

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        if isinstance(self._thread, threading.Thread):
            self._thread.join(timeout=5.0)
