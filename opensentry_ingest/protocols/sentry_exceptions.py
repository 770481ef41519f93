"""Exceptions of Sentry's events, their stacks and the frames of these.

The rules of `sentry_conversion` hold here too.
"""

from typing import Any

from opensentry_ingest.protocols.sentry_conversion import (
    LARGEST,
    UNCONVERTED,
    Conversion,
    Members,
    listed,
    renamed,
    rules,
    scalar,
    split,
)


def exceptions(value: Any) -> tuple[Any, Any]:
    """Convert a chain of exceptions: the last is the one that was raised."""
    if isinstance(value, dict) and "values" not in value:
        return [_exception(value)], None
    chain, wrong = listed(value)
    return [_exception(each) for each in chain] or None, wrong


def _exception(source: Members) -> Members:
    done = Conversion(source, _EXCEPTION)
    done.take("type", scalar)
    done.take("value", scalar)
    done.take("stacktrace", stacktrace)
    return done.finish()


def stacktrace(value: Any) -> tuple[Any, Any]:
    """Convert a stack: Sentry's ends with the frame that raised, ours begins with it."""
    if not isinstance(value, dict):
        return None, value
    done = Conversion(value, _STACKTRACE)
    done.take("frames", _frames)
    return done.finish(), None


def _frames(value: Any) -> tuple[Any, Any]:
    if not isinstance(value, list):
        return None, value
    frames, wrong = split(value)
    return [renamed(frame, _FRAME) for frame in reversed(frames)], wrong or None


def stack_of_thread(threads: Any) -> Any:
    """Return the stack of the thread in which the event happened."""
    every, _ = listed(threads)
    for mark in ("crashed", "current"):
        for thread in every:
            if thread.get(mark) is True and isinstance(thread.get("stacktrace"), dict):
                return thread["stacktrace"]
    return None


def _is_line(value: int) -> bool:
    return -LARGEST <= value <= LARGEST


def _are_lines(value: list[Any]) -> bool:
    return _TEXT.issuperset(map(type, value))


_TEXT = frozenset({str})
_FRAME = rules(
    "stack-frame.json",
    {
        "filename": ("filename", str, None),
        "function": ("function", str, None),
        "module": ("module", str, None),
        "abs_path": ("absPath", str, None),
        "lineno": ("lineno", int, _is_line),
        "colno": ("colno", int, _is_line),
        "in_app": ("inApp", bool, None),
        "context_line": ("contextLine", str, None),
        "pre_context": ("preContext", list, _are_lines),
        "post_context": ("postContext", list, _are_lines),
    },
)
_EXCEPTION = frozenset({"type", "value", "stacktrace", UNCONVERTED})
_STACKTRACE = frozenset({"frames", UNCONVERTED})
