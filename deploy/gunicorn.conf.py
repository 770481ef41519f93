"""gunicorn for opensentry-ingest: `gunicorn --config gunicorn.conf.py`.

The timeouts depend on each other. If PostgreSQL stops answering, a request fails within 17 s:
OPENSENTRY_DATABASE_TIMEOUT (5 s) to wait for a free connection, the same to connect, the same for its statement, and
2 s to cancel the statement.
`graceful_timeout` is longer than that; systemd's TimeoutStopSec and nginx's proxy_read_timeout are longer than
`graceful_timeout`.
"""

import os

from opensentry_ingest import process_ended, tune_gc

wsgi_app = "opensentry_ingest:create_app()"

# Not used if systemd passes a socket.
bind = "127.0.0.1:3001"

# No more than the cores, which PostgreSQL needs too; at least two, so that one answers while the other restarts.
workers = max(2, len(os.sched_getaffinity(0)))
worker_class = "gthread"
# More than OPENSENTRY_POOL_SIZE (4), to leave threads for /health when all connections wait for PostgreSQL.
threads = 8

# Safe: each worker opens its own connections, after the fork.
preload_app = True

# Replace a worker after about this many requests, to limit the cost of a memory leak. The jitter keeps workers from
# restarting at the same time.
max_requests = 100_000
max_requests_jitter = 10_000

graceful_timeout = 30
# A worker whose main loop does not respond for this long is killed.
timeout = 30

# nginx's default limit, so that nginx refuses a longer line with its own answer.
limit_request_line = 8190

# The workers' heartbeat is a file. In memory, a busy disk cannot block it.
worker_tmp_dir = "/dev/shm"
control_socket_disable = True

# The workers share their metrics here (extra `metrics`). systemd creates the folder, and empties it at a restart.
if "RUNTIME_DIRECTORY" in os.environ:
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", os.environ["RUNTIME_DIRECTORY"] + "/metrics")


def post_fork(server, worker):  # type: ignore[no-untyped-def]
    """Run Python's garbage collector less often in this worker."""
    tune_gc()


def child_exit(server, worker):  # type: ignore[no-untyped-def]
    """Remove a dead worker from the gauges."""
    process_ended(worker.pid)


# Warnings and errors of all libraries, and the service's INFO lines: one for each refused request.
logconfig_dict = {
    "formatters": {"line": {"format": "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {"opensentry_ingest": {"level": "INFO"}},
}
