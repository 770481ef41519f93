"""The service for a WSGI server: `gunicorn wsgi`. The settings come from the environment."""

import sys

from opensentry_ingest import SettingsError, create_app, tune_gc

try:
    application = create_app()
    tune_gc()
except SettingsError as error:
    print(f"opensentry-ingest: {error}", file=sys.stderr)
    # gunicorn shuts down on this exit status; after any other it would restart the worker forever.
    sys.exit(3)
