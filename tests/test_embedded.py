"""The embedded PostgreSQL, as far as it differs from any other."""

import os
from pathlib import Path

import pytest

from opensentry_ingest import embedded


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc to look at")
def test_its_backends_keep_the_memory_that_a_large_payload_needs_and_no_other_process_does(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with embedded.server(tmp_path / "data"):
        pid = (tmp_path / "data" / "postgres" / "postmaster.pid").read_text().splitlines()[0]
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    for name, size in embedded.MEMORY.items():
        assert f"{name}={size}".encode() in environ
        assert name not in os.environ
