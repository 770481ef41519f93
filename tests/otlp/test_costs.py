"""What calls through the real libraries cost, by prices that an operator imports."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from tests.otlp.conftest import CLIENTS, Relay, environ, run
from tests.otlp.test_calls import ONE
from tests.support import Database
from tests.viewer.conftest import running as viewing

PRICES = {
    "gpt-4o-mini": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1.5e-07,
        "cache_read_input_token_cost": 7.5e-08,
        "output_cost_per_token": 6e-07,
    },
    "claude-sonnet-4": {
        "litellm_provider": "anthropic",
        "mode": "chat",
        "input_cost_per_token": 3e-06,
        "cache_read_input_token_cost": 3e-07,
        "cache_creation_input_token_cost": 3.75e-06,
        "output_cost_per_token": 1.5e-05,
    },
}
"""In the form of LiteLLM's file, in US dollars for a token."""

COSTS = {
    # 2 x (176 x 0.15 + 1024 x 0.075 + 34 x 0.60) / 1,000,000
    ("openai", "gpt-4o-mini-2024-07-18"): (2, Decimal("0.0002472")),
    # 2 x (76 x 3 + 1000 x 0.30 + 124 x 3.75 + 34 x 15) / 1,000,000
    ("anthropic", "claude-sonnet-4-20250514"): (2, Decimal("0.003006")),
    # No price.
    ("openai", "text-embedding-3-small"): (1, None),
}


@pytest.mark.usefixtures("no_rows")
@pytest.mark.parametrize("instrumentation", ["genai", "openinference"])
def test_the_cost_of_each_day_and_model_is_shown(
    python: str, apis_url: str, database: Database, relay: Relay, tmp_path: Path, instrumentation: str
) -> None:
    calls = ["gpt", "gpt-stream", "gpt-embeddings", "claude", "claude-stream"]
    client = environ(database, relay, APIS_URL=apis_url, **ONE)
    run([python, str(CLIENTS / "calls.py"), instrumentation, *calls], client)
    (tmp_path / "prices.json").write_text(json.dumps(PRICES))
    command = [sys.executable, "-m", "opensentry_ingest", "prices", "import", str(tmp_path / "prices.json")]
    subprocess.run(command, env={**os.environ, "DATABASE_URL": database.owner}, check=True)

    days = database.fetch("SELECT * FROM opensentry.ai_generation_days")
    assert {(row["provider"], row["model"]): (row["calls"], row["cost_usd"]) for row in days} == COSTS
    received = database.fetch("SELECT DISTINCT date_trunc('day', received_at) AS day FROM opensentry.ai_generations")
    assert {row["day"] for row in days} == {row["day"] for row in received}

    with (
        contextmanager(viewing)(database.owner, tmp_path / "viewer.log") as url,
        urllib.request.urlopen(f"{url}/llm", timeout=20) as response,
    ):
        page = response.read().decode()
    shown = re.findall(r'<th scope="row".*?<b>(.*?)</b>.*?data-label="cost">(.*?)</td>', page, re.S)
    assert {model: re.sub("<.*?>", "", cost) for model, cost in shown[: len(COSTS)]} == {
        "claude-sonnet-4-20250514": "≈$0.0030",
        "gpt-4o-mini-2024-07-18": "≈$0.00025",
        "text-embedding-3-small": "\N{EN DASH}",
    }
