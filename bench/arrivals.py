"""A load with constant arrival: a request is due at fixed intervals, whatever becomes of those before it.

A latency counts from the moment the request was due. So a server that stops for a second is charged with every request
that was due in that second, whereas wrk, which sends a request only after the last answer, would see a single slow one
(coordinated omission). The connections are as many as wrk's; a request that is due while all are in use waits for one.
"""

import gc
import re
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

from bench import sentry, tools

PATIENCE_SECONDS = 10
"""How long after the last request was due the answers are waited for."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_UNIQUE = sentry.NO_ID.encode()


@dataclass(frozen=True)
class Arrivals:
    """The result of one run.

    Args:
        latencies: in milliseconds; of a request without an answer, until the end of the run.
        requests: how many were answered.
        refused: how many of them were answered with another status than 2xx.
        unanswered: how many were not answered in time.
        own_delays: in milliseconds, how late each request was sent that could have been sent when it was due.
        own_cost: microseconds of processor time that this load took for a request.
        cost: what the meter measured.
    """

    latencies: list[float]
    requests: int
    refused: int
    unanswered: int
    own_delays: list[float]
    own_cost: float
    cost: tools.Cost


def percentile(values: list[float], percent: float) -> float:
    """Return the value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def report(name: str, runs: Sequence[Arrivals | tools.Run], items: int = 1) -> None:
    """Print what was refused, lost or not answered; nothing if nothing was.

    Args:
        name: of these runs.
        runs: the runs.
        items: how many rows an accepted request stores.
    """
    refused, unanswered = sum(run.refused for run in runs), sum(run.unanswered for run in runs)
    accepted = sum(run.requests for run in runs) - refused
    lost = max(0, accepted * items - sum(run.cost.rows for run in runs))
    if refused or unanswered or lost:
        print(f"- {name}: {accepted:,} requests accepted, {refused:,} refused, {unanswered:,} not answered; ", end="")
        print(f"of the accepted, {lost:,} items are not in the database")


def own_text(runs: list[Arrivals]) -> str:
    """Return a sentence about what the load itself took, and how late it was."""
    cost = max(run.own_cost for run in runs)
    delay = percentile([delay for run in runs for delay in run.own_delays], 99)
    return (
        f"The load with constant arrival took at most {cost:,.0f} us of processor time for a request, and sent 99 % of "
        f"the requests within {delay:.2f} ms of when they were due and a connection was free."
    )


def run(
    url: str,
    rate: float,
    seconds: float,
    body: bytes,
    header: str,
    meter: tools.Meter,
) -> Arrivals:
    """Post a body at a constant rate.

    Args:
        url: where to.
        rate: requests for each second.
        seconds: for how long.
        body: each `sentry.NO_ID` in it is replaced by an id of its own for each request.
        header: another header of each request.
        meter: measures the run.
    """
    parts = urlsplit(url)
    head = f"POST {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    message = f"{head}Content-Length: {len(body)}\r\n{header}\r\n\r\n".encode() + body
    unique = _UNIQUE in message
    idle = deque(_connect(url))
    free_since = dict.fromkeys(idle, 0.0)
    waiting: dict[socket.socket, tuple[float, bytes]] = {}
    latencies: list[float] = []
    own_delays: list[float] = []
    total = max(1, round(rate * seconds))
    sent = refused = 0
    meter.start()
    gc.disable()
    began_cpu = time.thread_time()
    began = time.perf_counter() + 0.01
    ends = began + total / rate + PATIENCE_SECONDS
    try:
        while len(latencies) < total and (now := time.perf_counter()) < ends:
            while sent < total and idle and (due := began + sent / rate) <= now:
                connection = idle.popleft()
                own_delays.append((time.perf_counter() - max(due, free_since[connection])) * 1000)
                connection.sendall(message.replace(_UNIQUE, uuid4().hex.encode()) if unique else message)
                waiting[connection] = due, b""
                sent += 1
            until_due = began + sent / rate - time.perf_counter() if sent < total and idle else 1
            # Not poll() or epoll, which round up to milliseconds.
            for connection in select.select(list(waiting), [], [], max(0, until_due))[0]:
                due, answer = waiting[connection]
                piece = connection.recv(65536)
                answer += piece
                if not piece:
                    raise SystemExit(f"{url} closed a connection after {answer!r}")
                if _is_complete(answer):
                    del waiting[connection]
                    free_since[connection] = time.perf_counter()
                    latencies.append((free_since[connection] - due) * 1000)
                    refused += not answer.startswith(b"HTTP/1.1 2")
                    idle.append(connection)
                else:
                    waiting[connection] = due, answer
    finally:
        gc.enable()
    own_cost = (time.thread_time() - began_cpu) * 1e6 / total
    requests = len(latencies)
    cost = meter.cost(requests)
    now = time.perf_counter()
    lost = [due for due, _ in waiting.values()] + [began + number / rate for number in range(sent, total)]
    for connection in free_since:
        connection.close()
    latencies += [(now - due) * 1000 for due in lost]
    return Arrivals(latencies, requests, refused, len(lost), own_delays, own_cost, cost)


def _connect(url: str) -> list[socket.socket]:
    """Open the connections; replace those that a worker has beyond its share."""
    parts = urlsplit(url)
    connections: list[socket.socket] = []
    for _ in range(200):
        # All at once, or one worker would accept most of them.
        while len(connections) < tools.CONNECTIONS:
            connections.append(socket.socket())
            connections[-1].setblocking(False)
            connections[-1].connect_ex((parts.hostname, parts.port))
        for _ in range(100):
            owners = tools.owners(url)
            if all(connection.getsockname()[1] in owners for connection in connections):
                break
        shares: Counter[int | None] = Counter()
        for connection in connections.copy():
            owner = owners.get(connection.getsockname()[1])
            shares[owner] += 1
            if owner is None or shares[owner] > tools.CONNECTIONS // 2:
                connections.remove(connection)
                connection.close()
        if len(connections) == tools.CONNECTIONS:
            for connection in connections:
                connection.setblocking(True)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connections
    raise SystemExit("the workers never had equal shares of the connections")


def _is_complete(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return len(body) >= int(length[1]) if length else answer.endswith(b"\r\n0\r\n\r\n")
