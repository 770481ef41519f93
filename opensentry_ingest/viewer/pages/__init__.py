"""The pages, and what their forms do. `opensentry_ingest.viewer` says how to add one."""

from collections.abc import Callable
from typing import Any, NamedTuple

from opensentry_ingest.reading import Connection
from opensentry_ingest.viewer.pages import ai_generations, issues, performance, projects, traces
from opensentry_ingest.viewer.request import Request


class Page(NamedTuple):
    """A page.

    Attributes:
        path: its path; `{name}` stands for one part, which is in `request.groups`.
        data: what returns the page as a dictionary: the variables of its template, and the page as JSON.
        template: the file in templates/.
        heading: what it is called in the navigation; empty: it is not there.
    """

    path: str
    data: Callable[[Request, Connection], dict[str, Any]]
    template: str
    heading: str = ""


class Action(NamedTuple):
    """What a form does."""

    path: str
    run: Callable[[Request, Connection], None]


PAGES = (
    Page("/issues", issues.issues, "issues.html", "Issues"),
    Page("/issues/{id}", issues.issue, "issue.html"),
    Page("/trace", traces.trace, "trace.html"),
    Page("/performance", performance.performance, "performance.html", "Performance"),
    Page("/performance/transaction", performance.transaction, "transaction.html"),
    Page("/llm", ai_generations.ai_generations, "ai_generations.html", "LLM"),
    Page("/projects", projects.projects, "projects.html", "Projects"),
)

ACTIONS = (Action("/issues/{id}/status", issues.set_status),)
