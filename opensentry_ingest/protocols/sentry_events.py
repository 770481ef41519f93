"""Events of Sentry's SDKs as error items.

The rules that hold here, and in `sentry_transactions`: no value is refused, and none is invented; a member that has
none of ours keeps its name, so that PostgreSQL keeps it in `extra`; one that is not of its type, or whose name is one
of ours, is kept in the member `unconverted`; and null is the same as absent. What comes out is valid by the schema.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from opensentry_ingest import validators
from opensentry_ingest.protocols import gen_ai

Members = dict[str, Any]
Converter = Callable[[Any], tuple[Any, Any]]
"""Returns what a value is converted to, and what of it is not converted; None stands for nothing."""

UNCONVERTED = "unconverted"
LARGEST = 2**53 - 1


def own_names(schema: str) -> frozenset[str]:
    """Return the names that mean something in a schema, so that a member of Sentry's cannot keep them."""
    return frozenset(validators.schemas()[schema]["properties"]) | {UNCONVERTED}


class Conversion:
    """A conversion of one object: what is taken goes to `item`, and the rest follows at the end.

    Args:
        source: the object.
        own: the names that the rest cannot keep.
    """

    def __init__(self, source: Members, own: frozenset[str]) -> None:
        self.rest = {name: value for name, value in source.items() if value is not None}
        self.item: Members = {}
        self._own = own
        self._wrong: Members = {}

    def take(self, name: str, convert: Converter, member: str | None = None) -> None:
        """Convert a member, if there is one.

        Args:
            name: its name.
            convert: how.
            member: the name that it has in the item, if that differs.
        """
        if name in self.rest:
            value, wrong = convert(self.rest.pop(name))
            if value is not None:
                self.item[member or name] = value
            if wrong is not None:
                self._wrong[name] = wrong

    def finish(self) -> Members:
        """Return the item with the rest in it."""
        for name, value in self.rest.items():
            if name in self._own:
                self._wrong[name] = value
            else:
                self.item[name] = value
        if self._wrong:
            self.item[UNCONVERTED] = self._wrong
        return self.item


def error_item(event: Members) -> Members:
    """Return an event as an error item."""
    done = Conversion(event, _EVENT)
    item, rest = done.item, done.rest
    item["type"] = "error"
    item["exception"] = {}
    if rest.get("type") in ("error", "default", "event"):
        del rest["type"]
    done.take("exception", _exceptions)
    chain = item["exception"]
    if isinstance(chain, list):
        *causes, item["exception"] = chain
        if causes:
            item["causes"] = causes[::-1]
    if "stacktrace" not in item["exception"]:
        own = isinstance(rest.get("stacktrace"), dict)
        stack = rest.pop("stacktrace") if own else _stack_of_thread(rest.get("threads"))
        if stack is not None:
            item["exception"]["stacktrace"], _ = _stacktrace(stack)
    _take_message(done)
    done.take("level", _level)
    done.take("breadcrumbs", _breadcrumbs)
    done.take("fingerprint", _fingerprint)
    take_common(done)
    return done.finish()


def take_common(done: Conversion) -> None:
    """Convert the members that all events have."""
    done.take("tags", tags)
    done.take("user", string_map)
    done.take("environment", scalar)
    done.take("release", scalar)
    done.take("timestamp", timestamp)
    trace = trace_context(done.rest)
    for name, member in (("trace_id", "traceId"), ("span_id", "spanId")):
        if type(trace.get(name)) is str:
            done.item[member] = trace[name]


def without_prompts(event: Members) -> Members:
    """Return an event without what its spans say about what a language model was asked and what it answered."""
    trace, spans = trace_context(event), event.get("spans")
    if trace:
        event = {**event, "contexts": {**event["contexts"], "trace": _span_without_prompts(trace)}}
    if isinstance(spans, list):
        event = {**event, "spans": [_span_without_prompts(span) if isinstance(span, dict) else span for span in spans]}
    return event


def _span_without_prompts(span: Members) -> Members:
    data = span.get("data")
    return {**span, "data": gen_ai.without_content(data)} if isinstance(data, dict) else span


def trace_context(event: Members) -> Members:
    """Return the trace context of an event, {} if it has none."""
    contexts = event.get("contexts")
    trace = contexts.get("trace") if isinstance(contexts, dict) else None
    return trace if isinstance(trace, dict) else {}


def text_of(value: Any) -> str | None:
    """Return a string, a number or a boolean as text; None for anything else."""
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    return str(value) if type(value) in (int, float) else None


def scalar(value: Any) -> tuple[Any, Any]:
    """Convert what is text, or can be written as one."""
    text = text_of(value)
    return (None, value) if text is None else (text, None)


def string(value: Any) -> tuple[Any, Any]:
    """Convert a string."""
    return (value, None) if type(value) is str else (None, value)


def string_map(value: Any) -> tuple[Any, Any]:
    """Convert a map to one of strings."""
    if not isinstance(value, dict):
        return None, value
    texts: Members = {}
    wrong: Members = {}
    for name, each in value.items():
        text = text_of(each)
        if text is not None:
            texts[name] = text
        elif each is not None:
            wrong[name] = each
    return texts, wrong or None


def tags(value: Any) -> tuple[Any, Any]:
    """Convert tags, which are a map or an array of pairs."""
    if not isinstance(value, list):
        return string_map(value)
    texts: Members = {}
    wrong = []
    for pair in value:
        name, each = pair if isinstance(pair, list) and len(pair) == 2 else (None, pair)
        name, text = text_of(name), text_of(each)
        if name is not None and text is not None and name not in texts:
            texts[name] = text
        elif pair is not None:
            wrong.append(pair)
    return texts, wrong or None


def moment(value: Any) -> datetime | None:
    """Return the moment that a timestamp means, which is seconds since 1970 or in ISO 8601; None if it is none."""
    try:
        if type(value) in (int, float):
            return _EPOCH + timedelta(seconds=value)
        found = _ISO.fullmatch(value) if type(value) is str else None
        if not found:
            return None
        year, month, day, hour, minute, second, fraction, sign, hours, minutes = found.groups(default="0")
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), tzinfo=timezone.utc)
        local += timedelta(seconds=int(second), microseconds=int(fraction[:6].ljust(6, "0")))
        return local + offset if sign == "-" else local - offset
    except (ValueError, OverflowError):
        return None


def timestamp(value: Any) -> tuple[Any, Any]:
    """Convert a timestamp to ISO 8601."""
    when = moment(value)
    return (None, value) if when is None else (when.isoformat(), None)


def _level(value: Any) -> tuple[Any, Any]:
    known = _LEVELS.get(value.lower()) if type(value) is str else None
    return (None, value) if known is None else (known, None)


def _fingerprint(value: Any) -> tuple[Any, Any]:
    texts = [text_of(part) for part in value] if isinstance(value, list) and len(value) <= 20 else [None]
    if None in texts:
        return None, value
    return texts or None, None


def _listed(value: Any) -> tuple[list[Members], Any]:
    """Return the objects of an array, or of an object's array `values`, and what else there is."""
    listed = value.get("values") if isinstance(value, dict) else value
    if not isinstance(listed, list):
        return [], value
    wrong: Any = [each for each in listed if each is not None and not isinstance(each, dict)]
    if isinstance(value, dict):
        others = {name: each for name, each in value.items() if name != "values" and each is not None}
        wrong = {**others, "values": wrong} if wrong else others
    return [each for each in listed if isinstance(each, dict)], wrong or None


def _exceptions(value: Any) -> tuple[Any, Any]:
    """Convert a chain of exceptions: the last is the one that was raised."""
    if isinstance(value, dict) and "values" not in value:
        return [_exception(value)], None
    chain, wrong = _listed(value)
    return [_exception(each) for each in chain] or None, wrong


def _exception(source: Members) -> Members:
    done = Conversion(source, _EXCEPTION)
    done.take("type", scalar)
    done.take("value", scalar)
    done.take("stacktrace", _stacktrace)
    return done.finish()


def _stacktrace(value: Any) -> tuple[Any, Any]:
    """Convert a stack: Sentry's ends with the frame that raised, ours begins with it."""
    if not isinstance(value, dict):
        return None, value
    done = Conversion(value, _STACKTRACE)
    done.take("frames", _frames)
    return done.finish(), None


def _frames(value: Any) -> tuple[Any, Any]:
    if not isinstance(value, list):
        return None, value
    wrong = [frame for frame in value if frame is not None and not isinstance(frame, dict)]
    return [
        _renamed(frame, _FRAME, _FRAME_NAMES) for frame in reversed(value) if isinstance(frame, dict)
    ], wrong or None


def _stack_of_thread(threads: Any) -> Any:
    """Return the stack of the thread in which the event happened."""
    listed, _ = _listed(threads)
    for mark in ("crashed", "current"):
        for thread in listed:
            if thread.get(mark) is True and isinstance(thread.get("stacktrace"), dict):
                return thread["stacktrace"]
    return None


def _breadcrumbs(value: Any) -> tuple[Any, Any]:
    listed, wrong = _listed(value)
    return (None, value) if wrong is value else ([_breadcrumb(each) for each in listed], wrong)


def _breadcrumb(source: Members) -> Members:
    when = source.get("timestamp")
    if type(when) in (int, float) and (known := moment(when)):
        source["timestamp"] = known.isoformat()
    return _renamed(source, _BREADCRUMB, _BREADCRUMB_NAMES)


def _take_message(done: Conversion) -> None:
    """Convert the message, which is text, or an object with the text before and after its parameters were put in."""
    for name in ("logentry", "sentry.interfaces.Message", "message"):
        value = done.rest.get(name)
        text: str | None
        if type(value) is str:
            text, others = value, None
        elif isinstance(value, dict):
            text = next((value[each] for each in ("formatted", "message") if type(value.get(each)) is str), None)
            others = {each: part for each, part in value.items() if part is not None and part != text}
        else:
            continue
        if text is None or done.item.setdefault("message", text) != text:
            continue
        if others:
            done.rest[name] = others
        else:
            del done.rest[name]


def _renamed(source: Members, known: Mapping[str, "_Rule"], own: frozenset[str]) -> Members:
    """Convert an object whose members only have other names than ours."""
    item: Members = {}
    wrong: Members = {}
    for name, value in source.items():
        if name in known:
            member, kind, check = known[name]
            if type(value) is kind and (check is None or check(value)):
                item[member] = value
                continue
        elif name not in own:
            if value is not None:
                item[name] = value
            continue
        if value is not None:
            wrong[name] = value
    if wrong:
        item[UNCONVERTED] = wrong
    return item


def _is_line(value: int) -> bool:
    return -LARGEST <= value <= LARGEST


def _are_lines(value: list[Any]) -> bool:
    return {str}.issuperset(map(type, value))


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]+))?)?(?:Z|([+-])([0-9]{2}):?([0-9]{2})?)?)?"
)
_LEVELS = {
    **{level: level for level in ("fatal", "error", "warning", "info", "debug")},
    "critical": "fatal",
    "information": "info",
    "log": "info",
    "trace": "debug",
    "warn": "warning",
}
_Rule = tuple[str, type, Callable[[Any], bool] | None]
_FRAME: dict[str, _Rule] = {
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
}
_FRAME_NAMES = own_names("stack-frame.json")
_BREADCRUMB: dict[str, _Rule] = {
    **{name: (name, str, None) for name in ("category", "message", "level", "timestamp", "type")},
    "data": ("data", dict, None),
}
_BREADCRUMB_NAMES = own_names("breadcrumb.json")
_EVENT = own_names("error-item.json") | {"causes"}
_EXCEPTION = frozenset({"type", "value", "stacktrace", UNCONVERTED})
_STACKTRACE = frozenset({"frames", UNCONVERTED})
