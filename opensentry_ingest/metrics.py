"""The metrics that Prometheus reads at `/metrics`, by the extra `metrics`.

The rules that hold here: without prometheus_client nothing is counted and nothing costs time; a label's values are few
and ours, never a client's; the numbers of one process are never shown as those of all; and what goes wrong with a
number costs no request.

Several processes share their numbers by files in the folder PROMETHEUS_MULTIPROC_DIR, as prometheus_client does it. The
counts of a process that ended stay in them; its gauges must be removed, by `process_ended()`.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

from opensentry_ingest.settings import SettingsError

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds: from the validation of one item to the longest wait for a database."""

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("opensentry_ingest")


class _Metrics:
    """What is counted. There is one for a process."""

    def __init__(self) -> None:
        # prometheus_client decides at its import how it counts, so a server can still name the folder before this.
        import prometheus_client

        requests = prometheus_client.Counter(
            "opensentry_ingest_requests", "Requests, by the answer they got.", ["path", "status", "reason"]
        )
        items = prometheus_client.Counter("opensentry_ingest_items", "Items that were accepted.", ["type"])
        stages = prometheus_client.Histogram(
            "opensentry_ingest_stage_seconds", "Time that a stage of a request took.", ["stage"], buckets=BUCKETS
        )
        pool = prometheus_client.Gauge(
            "opensentry_ingest_pool",
            "Connections in use, requests that wait for one, and connections at most.",
            ["state"],
            multiprocess_mode="livesum",
        )
        # labels() takes longer than counting does.
        self.requests, self.items = cache(requests.labels), cache(items.labels)
        self.stage, self.pool = cache(stages.labels), cache(pool.labels)
        self.bytes = prometheus_client.Counter("opensentry_ingest_bytes", "Bytes of accepted bodies, unpacked.")
        self.pid = 0


_metrics: _Metrics | None = None


def start() -> None:
    """Begin to count, where prometheus_client is installed. A second call changes nothing.

    Raises:
        SettingsError: the folder PROMETHEUS_MULTIPROC_DIR cannot be made or written to.
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
    """Count a request by the answer it got; `reason` is empty where it was not refused."""
    if metrics := _own():
        metrics.requests(path, str(status), reason).inc()


def accepted(value: Any, length: int) -> None:
    """Count the items of a payload that was stored, and the bytes of its body."""
    if metrics := _own():
        metrics.bytes.inc(length)
        if isinstance(value, list):
            for kind, number in Counter(item["type"] for item in value).items():
                metrics.items(kind).inc(number)
        else:
            metrics.items(value["type"]).inc()


def timed(stage: str, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
    """Call a function, whose time counts for a stage of a request, also where it raises."""
    metrics = _own()
    if not metrics:
        return function(*arguments, **keywords)
    began = perf_counter()
    try:
        return function(*arguments, **keywords)
    finally:
        metrics.stage(stage).observe(perf_counter() - began)


def pool(state: str, more: int) -> None:
    """Say that the pool of this process has so many more in a state."""
    if metrics := _own():
        metrics.pool(state).inc(more)


def exposition(several: bool) -> bytes | None:
    """Return the metrics in Prometheus' text format, or None where there are none to show.

    Args:
        several: whether other processes serve the same address (`wsgi.multiprocess`, PEP 3333).
    """
    if not _own():
        return None
    from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, multiprocess

    if os.environ.get(DIRECTORY):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    if several:
        logger.warning("metrics: there are several processes: set %s to a folder that they share", DIRECTORY)
        return None
    return generate_latest(REGISTRY)


def process_ended(pid: int) -> None:
    """Forget what a process of this server had in use when it ended; what it counted stays.

    Args:
        pid: its process id. gunicorn's hook `child_exit` knows it.
    """
    if os.environ.get(DIRECTORY):
        with suppress(ImportError):
            from prometheus_client import multiprocess

            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _own() -> _Metrics | None:
    """Return the metrics, with the files of this process open: after a fork they are its parent's."""
    global _metrics
    metrics = _metrics
    if metrics and metrics.pid != os.getpid():
        metrics.pid = os.getpid()
        try:
            metrics.bytes.inc(0)
        except OSError as error:
            logger.error("metrics: %s: this process counts nothing", error)
            _metrics = None
    return _metrics
