"""Errors, performance data and LLM calls, from a POST to a committed row in PostgreSQL.

What this module exports is the public interface; everything else may change.
"""

from opensentry_ingest._version import __version__
from opensentry_ingest.app import Application, create_app
from opensentry_ingest.settings import SettingsError

__all__ = ["Application", "SettingsError", "__version__", "create_app"]
