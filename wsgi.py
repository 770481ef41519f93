"""The service for a WSGI server, such as `gunicorn wsgi`, with its settings from the environment."""

import sys

from opensentry_ingest import SettingsError, create_app, tune_gc

try:
    application = create_app()
    tune_gc()
except SettingsError as error:
    print(f"opensentry-ingest: {error}", file=sys.stderr)
    # With this exit status gunicorn shuts down; with any other it would restart the worker forever.
    sys.exit(3)
