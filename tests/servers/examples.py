"""The files and commands of `docs/embedding.md`, unchanged."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import support
from tests.support import ROOT

PAGE = (ROOT / "docs/embedding.md").read_text()

CONNINFO = '"postgresql://shop:secret@localhost/shop"'
"""The connection string in the examples."""


def write_example(section: str, folder: Path, conninfo: str) -> None:
    """Write the Python files of a section of the page to a folder, with another connection string."""
    text = PAGE.split(f"# {section}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for name, block in blocks:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(block.replace(CONNINFO, repr(conninfo)))


@contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[str]:
    """Run a server without settings in its environment, and stop it at the end."""
    environ = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}:/usr/sbin"
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        support.wait_until(lambda: process.poll() is not None or support.listens(port))
        assert process.poll() is None, log.read_text()
        yield url
        # Nothing that a client sends may raise an exception in the server.
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def command_of(program: str, port: int) -> list[str]:
    """Return the page's command for a program, with another port."""
    line = re.findall(rf"^{program} .*3001.*$", PAGE, re.MULTILINE)[0]
    return shlex.split(line.replace("3001", str(port)))
