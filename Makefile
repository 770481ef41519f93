PYTHON ?= python3
BIN = .venv/bin

# The suites that need more than Python: each a folder of tests/, run by `make test-FOLDER`.
SUITES =

.PHONY: run test check test-more bench

# Seconds of one measured run, and the rounds whose median is printed.
SECONDS_EACH = 10
ROUNDS = 5

run: .venv/installed
	$(BIN)/opensentry-ingest serve

test: .venv/installed
	$(BIN)/pytest

check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/installed .bench/installed
	$(BIN)/python -m bench.speed --seconds $(SECONDS_EACH) --rounds $(ROUNDS)

.bench/installed:
	command -v wrk || { apt-get update -q && apt-get install -q --yes --no-install-recommends wrk; }
	mkdir -p .bench && touch $@

test-more: $(SUITES:%=test-%)

test-%: .venv/installed
	$(BIN)/pytest tests/$*

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@
