"""The fixtures of this suite: the npm packages, installed once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import support
from tests.schemas.vectors import SCHEMAS

HERE = Path(__file__).parent

Run = Callable[..., str]


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The npm packages of package.json, at exact versions, in a folder that git ignores."""
    return support.npm_packages(HERE)


@pytest.fixture
def workshop(tmp_path: Path, node_modules: Path) -> Path:
    """A folder with a copy of schemas/ and the npm packages, as an author of a client would have it."""
    shutil.copytree(SCHEMAS, tmp_path / "schemas")
    (tmp_path / "node_modules").symlink_to(node_modules)
    return tmp_path


@pytest.fixture
def run(workshop: Path, node_modules: Path) -> Run:
    """Runs a shell command in the workshop and returns its output. Fails the test if the command fails."""
    path = os.pathsep.join([str(node_modules / ".bin"), str(Path(sys.executable).parent), os.environ["PATH"]])

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=workshop,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
