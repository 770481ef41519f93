"""gunicorn for opensentry-ingest: `gunicorn --config gunicorn.conf.py`.

The timeouts fit together. A request waits for the database at most OPENSENTRY_DATABASE_TIMEOUT (5 s) for a connection,
as long again to open one and for its statement, and 2 s for a cancellation. `graceful_timeout` is more than that;
systemd's TimeoutStopSec and nginx's proxy_read_timeout are more than `graceful_timeout`.
"""

import os

from opensentry_ingest import process_ended, tune_gc

wsgi_app = "opensentry_ingest:create_app()"

# Without systemd's socket; where there is one, it is used instead.
bind = "127.0.0.1:3001"

# PostgreSQL needs the cores as well. Never one alone, so that one answers while the other starts anew.
workers = max(2, len(os.sched_getaffinity(0)))
worker_class = "gthread"
# More than OPENSENTRY_POOL_SIZE (4), so that some are left for /health when all connections wait for PostgreSQL.
threads = 8

# The pool opens in each worker, after the fork, so the application may be loaded once before it.
preload_app = True

# A worker is replaced after about this many requests, which bounds what a leak can cost; not all of them at once.
max_requests = 100_000
max_requests_jitter = 10_000

graceful_timeout = 30
# A worker whose main loop is silent for this long is killed.
timeout = 30

# What nginx takes in one line by default, so that it refuses a longer one in its own words.
limit_request_line = 8190

# The workers' heartbeat is a file, and on a busy disk it would stop.
worker_tmp_dir = "/dev/shm"
control_socket_disable = True

# Where the workers share their metrics, for the extra `metrics`: systemd makes it, and empties it at a restart.
if "RUNTIME_DIRECTORY" in os.environ:
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", os.environ["RUNTIME_DIRECTORY"] + "/metrics")


def post_fork(server, worker):  # type: ignore[no-untyped-def]
    """Spare the worker what Python's garbage collector does by default."""
    tune_gc()


def child_exit(server, worker):  # type: ignore[no-untyped-def]
    """Forget what a worker had in use when it ended."""
    process_ended(worker.pid)


# The log of the service and its libraries: what is wrong, and a line for each refused request, which is INFO.
logconfig_dict = {
    "formatters": {"line": {"format": "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {"opensentry_ingest": {"level": "INFO"}},
}
