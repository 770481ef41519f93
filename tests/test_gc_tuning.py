"""The garbage collector is tuned in a process that only runs this service, and unchanged in any other."""

import subprocess
import sys

import pytest

from tests.support import ROOT, Database

STATE = "import gc; print(gc.get_threshold()[0], gc.get_freeze_count() > 0)"

SERVE = """from opensentry_ingest import settings
from opensentry_ingest.commands import serve
serve._gunicorn(settings.load(), '127.0.0.1', 3001, '').options['post_fork'](None, None)"""


@pytest.mark.parametrize(
    ("code", "tuned"),
    [
        ("import wsgi", True),
        ("import runpy; runpy.run_path('deploy/gunicorn.conf.py')['post_fork'](None, None)", True),
        (SERVE, True),
        ("import opensentry_ingest; opensentry_ingest.create_app()", False),
    ],
)
def test_only_a_dedicated_process_tunes_the_garbage_collector(
    database: Database, code: str, tuned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.service)
    command = [sys.executable, "-c", f"{STATE}\n{code}\n{STATE}"]
    before, after = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    assert (after != before) is tuned
    if tuned:
        assert after == "10000 True"
