"""Events of Sentry's SDKs as error items.

The rules of `sentry_conversion` hold here too.
"""

from typing import Any

from opensentry_ingest.protocols.sentry_conversion import (
    Conversion,
    Members,
    listed,
    moment,
    own_names,
    renamed,
    rules,
    take_common,
    text_of,
)
from opensentry_ingest.protocols.sentry_exceptions import exceptions, stack_of_thread, stacktrace


def error_item(event: Members) -> Members:
    """Return an event as an error item."""
    done = Conversion(event, _EVENT)
    item, rest = done.item, done.rest
    item["type"] = "error"
    item["exception"] = {}
    if rest.get("type") in ("error", "default", "event"):
        del rest["type"]
    done.take("exception", exceptions)
    chain = item["exception"]
    if isinstance(chain, list):
        *causes, item["exception"] = chain
        if causes:
            item["causes"] = causes[::-1]
    if "stacktrace" not in item["exception"]:
        own = isinstance(rest.get("stacktrace"), dict)
        stack = rest.pop("stacktrace") if own else stack_of_thread(rest.get("threads"))
        if stack is not None:
            item["exception"]["stacktrace"], _ = stacktrace(stack)
    _take_message(done)
    done.take("level", _level)
    done.take("breadcrumbs", _breadcrumbs)
    done.take("fingerprint", _fingerprint)
    take_common(done)
    return done.finish()


def _level(value: Any) -> tuple[Any, Any]:
    known = _LEVELS.get(value.lower()) if type(value) is str else None
    return (None, value) if known is None else (known, None)


def _fingerprint(value: Any) -> tuple[Any, Any]:
    texts = [text_of(part) for part in value] if isinstance(value, list) and len(value) <= 20 else [None]
    if None in texts:
        return None, value
    return texts or None, None


def _breadcrumbs(value: Any) -> tuple[Any, Any]:
    crumbs, wrong = listed(value)
    return (None, value) if wrong is value else ([_breadcrumb(each) for each in crumbs], wrong)


def _breadcrumb(source: Members) -> Members:
    # Most are breadcrumbs of ours as they are, and to find that out takes less time than to copy them.
    for name, value in source.items():
        if type(value) is not _BREADCRUMB_TYPES.get(name):
            break
    else:
        return source
    when = source.get("timestamp")
    if type(when) in (int, float) and (known := moment(when)):
        source["timestamp"] = known.isoformat()
    return renamed(source, _BREADCRUMB)


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


_LEVELS = {
    **{level: level for level in ("fatal", "error", "warning", "info", "debug")},
    "critical": "fatal",
    "information": "info",
    "log": "info",
    "trace": "debug",
    "warn": "warning",
}
_BREADCRUMB_TYPES = {**dict.fromkeys(("category", "message", "level", "timestamp", "type"), str), "data": dict}
_BREADCRUMB = rules("breadcrumb.json", {name: (name, kind, None) for name, kind in _BREADCRUMB_TYPES.items()})
_EVENT = own_names("error-item.json") | {"causes"}
