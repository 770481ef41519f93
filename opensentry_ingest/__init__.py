"""Errors, performance data and LLM calls, from a POST to a committed row in PostgreSQL.

What this module exports is the public interface; everything else may change.
"""

from opensentry_ingest._version import __version__
from opensentry_ingest.app import Application, create_app
from opensentry_ingest.gc_tuning import tune_gc
from opensentry_ingest.metrics import process_ended
from opensentry_ingest.payload_types import (
    AiGenerationItem,
    Breadcrumb,
    ErrorItem,
    IngestItem,
    IngestPayload,
    Span,
    StackFrame,
    TransactionItem,
)
from opensentry_ingest.settings import SettingsError

__all__ = [
    "AiGenerationItem",
    "Application",
    "Breadcrumb",
    "ErrorItem",
    "IngestItem",
    "IngestPayload",
    "SettingsError",
    "Span",
    "StackFrame",
    "TransactionItem",
    "__version__",
    "create_app",
    "process_ended",
    "tune_gc",
]
