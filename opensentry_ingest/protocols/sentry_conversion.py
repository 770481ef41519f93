"""What every kind of event of Sentry's SDKs needs to become an item of ours.

The rules that hold here, and in the modules that use it: no value is refused, and none is invented; a member that has
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

Rule = tuple[str, type | None, Callable[[Any], bool] | None]
"""The name that a member gets, the type that it must have (None if no value is right), and a check of its value."""

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


def rules(schema: str, known: Mapping[str, Rule]) -> Mapping[str, Rule]:
    """Return the rules that are known, and one for each other name of ours: no value of it is right."""
    return {**{name: (name, None, None) for name in own_names(schema)}, **known}


def renamed(source: Members, known: Mapping[str, Rule]) -> Members:
    """Convert an object whose members only have other names than ours, by `rules`."""
    item: Members = {}
    wrong: Members = {}
    # Most of an event is frames and breadcrumbs, so most of a conversion's time is spent here.
    for name, value in source.items():
        if value is None:
            continue
        rule = known.get(name)
        if rule is None:
            item[name] = value
        elif type(value) is rule[1] and (rule[2] is None or rule[2](value)):
            item[rule[0]] = value
        else:
            wrong[name] = value
    if wrong:
        item[UNCONVERTED] = wrong
    return item


def listed(value: Any) -> tuple[list[Members], Any]:
    """Return the objects of an array, or of an object's array `values`, and what else there is."""
    values = value.get("values") if isinstance(value, dict) else value
    if not isinstance(values, list):
        return [], value
    objects, wrong = split(values)
    if isinstance(value, dict):
        others = {name: each for name, each in value.items() if name != "values" and each is not None}
        wrong = {**others, "values": wrong} if wrong else others
    return objects, wrong or None


def split(values: list[Any]) -> tuple[list[Members], Any]:
    """Return the objects of an array, and what else is in it but null."""
    objects = [each for each in values if isinstance(each, dict)]
    if len(objects) == len(values):
        return objects, []
    return objects, [each for each in values if each is not None and not isinstance(each, dict)]


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
    bare = _span_without_prompts(trace)
    if bare is not trace:
        event = {**event, "contexts": {**event["contexts"], "trace": bare}}
    if isinstance(spans, list):
        event = {**event, "spans": [_span_without_prompts(span) if isinstance(span, dict) else span for span in spans]}
    return event


def _span_without_prompts(span: Members) -> Members:
    members = {name: span[name] for name in ("data", "links") if span.get(name)}
    return {**span, **gen_ai.without_content(members)} if members else span


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
            return datetime.fromtimestamp(value, timezone.utc)
        if type(value) is str and _UTC.fullmatch(value):
            return datetime.fromisoformat(f"{value[:-1]}+00:00")
        found = _ISO.fullmatch(value) if type(value) is str else None
        if not found:
            return None
        year, month, day, hour, minute, second, fraction, sign, hours, minutes = found.groups(default="0")
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), tzinfo=timezone.utc)
        local += timedelta(seconds=int(second), microseconds=int(fraction[:6].ljust(6, "0")))
        return local + offset if sign == "-" else local - offset
    except (ValueError, OverflowError, OSError):
        return None


def timestamp(value: Any) -> tuple[Any, Any]:
    """Convert a timestamp to ISO 8601."""
    when = moment(value)
    return (None, value) if when is None else (when.isoformat(), None)


# As almost all SDKs write it. Older Pythons parse no "Z".
_UTC = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-5][0-9](?:[.](?:[0-9]{3}|[0-9]{6}))?Z")
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]+))?)?(?:Z|([+-])([0-9]{2}):?([0-9]{2})?)?)?"
)
