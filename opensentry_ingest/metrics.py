"""The metrics that Prometheus reads at `/metrics`, with the extra `metrics`.

The rules that hold here: without prometheus_client nothing is counted and nothing costs time; label values are few, and
never come from a client; the numbers of one process are never shown as those of all processes; and an error in the
metrics fails no request.

Several processes share their numbers through files in the folder PROMETHEUS_MULTIPROC_DIR, as usual with
prometheus_client. If a process exits, its counters stay in these files, and `process_ended()` removes its gauges.
"""

import logging
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

from opensentry_ingest.settings import SettingsError

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""In seconds: from the time to validate one item to the longest wait for the database."""

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("opensentry_ingest")


class _Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        # prometheus_client reads the environment when it is imported; until here, a server can still set the folder.
        import prometheus_client

        requests = prometheus_client.Counter(
            "opensentry_ingest_requests", "Requests by response.", ["path", "status", "reason"]
        )
        items = prometheus_client.Counter("opensentry_ingest_items", "Items in accepted requests.", ["type"])
        skipped = prometheus_client.Counter(
            "opensentry_ingest_skipped", "Parts of accepted requests that are not stored.", ["type"]
        )
        stages = prometheus_client.Histogram(
            "opensentry_ingest_stage_seconds", "Time that each stage of a request takes.", ["stage"], buckets=BUCKETS
        )
        pool = prometheus_client.Gauge(
            "opensentry_ingest_pool",
            "Connections in use, requests waiting for a connection, and the most connections allowed.",
            ["state"],
            multiprocess_mode="livesum",
        )
        # labels() takes longer than inc().
        self.requests, self.items, self.skipped = cache(requests.labels), cache(items.labels), cache(skipped.labels)
        self.stage, self.pool = cache(stages.labels), cache(pool.labels)
        self.bytes = prometheus_client.Counter("opensentry_ingest_bytes", "Decompressed bytes of accepted requests.")
        self.pid = 0
        self.opening = Lock()


_metrics: _Metrics | None = None


def start() -> None:
    """Start counting if prometheus_client is installed. A second call changes nothing.

    Raises:
        SettingsError: the folder PROMETHEUS_MULTIPROC_DIR cannot be created or written to.
    """
    global _metrics
    if _metrics is None:
        try:
            if os.environ.get(DIRECTORY):
                os.makedirs(os.environ[DIRECTORY], exist_ok=True)
            _metrics = _Metrics()
        except ImportError:
            pass
        except OSError as error:
            raise SettingsError(f"{DIRECTORY}: {error.filename}: {error.strerror}") from None


def answered(path: str, status: int, reason: str) -> None:
    """Count a request by its response; `reason` is empty unless the request was refused."""
    if metrics := _own():
        metrics.requests(path, str(status), reason).inc()


def accepted(value: Any, length: int, skipped: Mapping[str, int]) -> None:
    """Count the items of an accepted payload, the bytes of its body, and what of it is not stored, by kind."""
    if metrics := _own():
        for kind, number in skipped.items():
            metrics.skipped(kind).inc(number)
        metrics.bytes.inc(length)
        if isinstance(value, list):
            kinds = [item["type"] for item in value]
            for kind in set(kinds):
                metrics.items(kind).inc(kinds.count(kind))
        else:
            metrics.items(value["type"]).inc()


def timed(stage: str, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
    """Call a function and count its time for a stage of the request, even if it raises."""
    metrics = _own()
    if not metrics:
        return function(*arguments, **keywords)
    began = perf_counter()
    try:
        return function(*arguments, **keywords)
    finally:
        metrics.stage(stage).observe(perf_counter() - began)


def pool(state: str, more: int) -> None:
    """Add a number to a state of this process's pool: "used", "waiting" or "size"."""
    if metrics := _own():
        metrics.pool(state).inc(more)


def exposition(several: bool) -> bytes | None:
    """Return the metrics in the text format of Prometheus, or None if there are none to show.

    Args:
        several: whether other processes serve the same address too (`wsgi.multiprocess`, PEP 3333).
    """
    if not _own():
        return None
    from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, multiprocess

    if os.environ.get(DIRECTORY):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    if several:
        logger.warning("metrics: several processes serve this address: set %s to a folder that they share", DIRECTORY)
        return None
    return generate_latest(REGISTRY)


def process_ended(pid: int) -> None:
    """Remove the gauges of a process that has exited; its counters stay.

    Call it in gunicorn's hook `child_exit`, with `worker.pid`.

    Args:
        pid: the process id.
    """
    if directory := os.environ.get(DIRECTORY):
        # As prometheus_client's mark_process_dead() does, but without an import: gunicorn 23 calls its hook in a signal
        # handler, and when the next worker's exit interrupts an import there, the hook fails and gunicorn stops.
        for gauges in Path(directory).glob(f"gauge_live*_{pid}.db"):
            gauges.unlink(missing_ok=True)


def _own() -> _Metrics | None:
    """Return the metrics. After a fork, open the files of this process first: those that are open are its parent's."""
    metrics = _metrics
    if metrics and metrics.pid != os.getpid():
        _open_files(metrics)
    return _metrics


def _open_files(metrics: _Metrics) -> None:
    """Open the files of this process, one for each kind of metric; an error of it later would fail a request."""
    global _metrics
    with metrics.opening:
        if metrics.pid == os.getpid():
            return
        try:
            metrics.bytes.inc(0)
            metrics.stage("store")
            for state in ("used", "waiting", "size"):
                # A killed process may have had the same id, and left its gauges.
                metrics.pool(state).set(0)
        except OSError as error:
            logger.error("metrics: %s: this process stops counting", error)
            _metrics = None
        metrics.pid = os.getpid()
