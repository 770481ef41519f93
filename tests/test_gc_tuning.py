"""The garbage collector: relaxed where a process does nothing but serve, and the host's business elsewhere."""

import subprocess
import sys

import pytest

from tests.support import ROOT, Database

STATE = "import gc; print(gc.get_threshold()[0], gc.get_freeze_count() > 0)"

SERVE = """from opensentry_ingest import settings
from opensentry_ingest.commands import serve
serve._Gunicorn(settings.load(), '127.0.0.1', 3001, '')._options['post_fork'](None, None)"""


@pytest.mark.parametrize(
    ("code", "relaxed"),
    [
        ("import wsgi", True),
        ("import runpy; runpy.run_path('deploy/gunicorn.conf.py')['post_fork'](None, None)", True),
        (SERVE, True),
        ("import opensentry_ingest; opensentry_ingest.create_app()", False),
    ],
)
def test_a_process_that_only_serves_is_spared_the_collector(
    database: Database, code: str, relaxed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.service)
    command = [sys.executable, "-c", f"{STATE}\n{code}\n{STATE}"]
    before, after = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    assert (after != before) is relaxed
    if relaxed:
        assert after == "10000 True"
