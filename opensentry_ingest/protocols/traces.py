"""What the protocols that bring spans have in common: which span is below which, and which calls of models count.

The rules that hold here: no span is below itself, however spans name their parents; a call is counted once, however
many spans describe it; and each function takes time in proportion to the number of spans.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from opensentry_ingest.protocols import gen_ai

MAX_SPANS = 10_000
"""The most spans of a request. By default, SDKs of OpenTelemetry send 512 at a time, those of Sentry 1,000, and the
Collector 8,192."""

MAX_BETWEEN = 100
"""The most spans between two that may describe one call."""


class Node(Protocol):
    """What says where a span is in its trace."""

    @property
    def span_id(self) -> str:
        """Its own id."""

    @property
    def parent_id(self) -> str:
        """The id of the span that it is a part of; empty if there is none."""


class Span(Node, Protocol):
    """What says whether a span describes the same as another."""

    @property
    def start(self) -> int:
        """When it began, in any unit, since any moment; 0 if that is unknown."""

    @property
    def end(self) -> int:
        """When it ended, in the same way."""

    @property
    def scope(self) -> str:
        """The name of what made it."""

    @property
    def failed(self) -> bool:
        """Whether what it describes failed."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What describes it."""


def parents_of(trace: Sequence[Node]) -> list[int]:
    """Return for each span the index of its parent, or its own if that is not in the request.

    Of spans that are each other's parents, the first has none, so that no span is below nothing.
    """
    by_id: dict[str, int] = {}
    for index, span in enumerate(trace):
        by_id.setdefault(span.span_id, index)
    parents = [by_id.get(span.parent_id, index) if span.parent_id else index for index, span in enumerate(trace)]
    seen = [0] * len(trace)
    for start in range(len(trace)):
        at = start
        while not seen[at]:
            seen[at] = start + 1
            if seen[parents[at]] == start + 1:
                parents[parents[at]] = parents[at]
            at = parents[at]
    return parents


def roots_of(parents: list[int]) -> list[int]:
    """Return for each span the index of the topmost one above it."""
    roots = [-1] * len(parents)
    for start in range(len(parents)):
        path, at = [], start
        while roots[at] < 0:
            path.append(at)
            if parents[at] == at:
                roots[at] = at
            at = parents[at]
        for each in path:
            roots[each] = roots[at]
    return roots


def calls_of(trace: Sequence[Span], parents: list[int], calls: list[int], is_step: Callable[[int], bool]) -> list[int]:
    """Return the indexes of the calls of language models that count.

    A framework and a client may each describe one call, one inside or beside the other: the inner one counts, unless
    only the outer one knows the tokens. What an agent or a tool inside a call does is another call.

    Args:
        trace: the spans.
        parents: the indexes of their parents, by `parents_of`.
        calls: the indexes of those that describe calls.
        is_step: whether a span, by its index, is an agent, a tool, or another step in which models may be called.
    """
    around = _around(trace, parents, set(calls), is_step)
    known = {index for index in calls if gen_ai.has_tokens(trace[index].attributes)}
    known_inside: set[int] = set()
    for index in known:
        at = index
        while at in around and around[at] not in known_inside:
            at = around[at]
            known_inside.add(at)
    outer = set(around.values())
    counted = {index for index in outer if index in known and index not in known_inside}
    return [index for index in calls if index in counted or (index not in outer and not _is_in(index, around, counted))]


def _around(
    trace: Sequence[Span], parents: list[int], calls: set[int], is_step: Callable[[int], bool]
) -> dict[int, int]:
    """Return for each call the nearest one that it is inside of, if that may be the same."""
    around = {}
    for index in calls:
        at = index
        for _ in range(MAX_BETWEEN):
            if parents[at] == at or (at != index and is_step(at)):
                break
            at = parents[at]
            if at in calls:
                if gen_ai.may_be_same(trace[at].attributes, trace[index].attributes):
                    around[index] = at
                break
    return {**_beside(trace, calls), **around}


def _beside(trace: Sequence[Span], calls: set[int]) -> dict[int, int]:
    """Return for each call the one with the same parent that begins and ends around it, if that is the same.

    An instrumentation that does not make its span the current one has that of the client beside it. But calls beside
    each other are as a rule several calls at once, so only what says that two are one makes them one.
    """
    siblings: dict[str, list[int]] = {}
    for index in sorted(calls, key=lambda index: (trace[index].start, -trace[index].end)):
        if trace[index].parent_id:
            siblings.setdefault(trace[index].parent_id, []).append(index)
    beside: dict[int, int] = {}
    for group in siblings.values():
        for place, index in enumerate(group):
            if index in beside:
                continue
            for inner in group[place + 1 : place + 1 + MAX_BETWEEN]:
                if inner not in beside and _is_same(trace[index], trace[inner]):
                    beside[inner] = index
                    break
    return beside


def _is_same(outer: Span, inner: Span) -> bool:
    """Return whether two spans are one call, as two instrumentations describe it."""
    if outer.scope == inner.scope or inner.end > outer.end:
        return False
    return gen_ai.is_same(outer.attributes, inner.attributes, (outer.failed, inner.failed))


def _is_in(index: int, around: dict[int, int], counted: set[int]) -> bool:
    for _ in range(MAX_BETWEEN):
        if index not in around:
            return False
        index = around[index]
        if index in counted:
            return True
    return False
