"""The service for a WSGI server: `gunicorn wsgi`. The settings come from the environment."""

import sys

from opensentry_ingest import SettingsError, collector, create_app

try:
    application = create_app()
    collector.relax()
except SettingsError as error:
    print(f"opensentry-ingest: {error}", file=sys.stderr)
    # The exit status at which gunicorn gives up, where it would start a worker again for ever after any other.
    sys.exit(3)
