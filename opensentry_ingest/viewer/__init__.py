"""The viewer: pages that show what came in, as a WSGI application of its own.

It shares no process, port or role with ingest: it logs in as a member of `opensentry_reader`.

To add a page, write three things:

1. a function in a module of `pages/`, which takes a `Request` and a connection and returns a dictionary. It makes its
   queries through `opensentry_ingest.reading`, and `request.period`, `request.project_id` and `request.choice()` say
   what was asked for. The dictionary is the page as JSON (its path and `.json`), so it holds plain values: no HTML.
2. a template in `templates/`, which extends `base.html` and gets the members of the dictionary as variables, and
   `link(path, **query)` and `here(**query)` for URLs. Every value is escaped. Filters and functions are those of
   `rendering.py`, charts those of `charts.py`, and pieces of HTML are in `macros.html`.
3. a line in the table `PAGES` in `pages/__init__.py`. With a heading it appears in the navigation.

A function in the table `ACTIONS` there changes something, by POST.

The rules that hold here: everything shown came from strangers, so HTML is made by the templates and `charts.py` alone,
no attribute `style` and no inline script exists, and a link leads only to our own pages; the connection of a page is
read-only; and nothing is rendered while a connection is open.
"""

from opensentry_ingest.viewer.app import Viewer, create_viewer

__all__ = ["Viewer", "create_viewer"]
