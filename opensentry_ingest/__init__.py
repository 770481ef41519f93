"""Errors, performance data and LLM calls, from a POST to a committed row in PostgreSQL.

What this module exports is the public interface; everything else may change.
"""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from opensentry_ingest.viewer import create_viewer as create_viewer

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


def __getattr__(name: str) -> object:
    # The viewer needs Jinja2, of the extra `viewer`. It is not in __all__, so that `import *` does not need it too.
    if name == "create_viewer":
        from opensentry_ingest.viewer import create_viewer

        return create_viewer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
