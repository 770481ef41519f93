PYTHON ?= python3
BIN = .venv/bin

# The suites that need more than Python: each a folder of tests/, run by `make test-FOLDER`.
SUITES = faults

.PHONY: run test check test-more faults

run: .venv/installed
	$(BIN)/opensentry-ingest serve

test: .venv/installed
	$(BIN)/pytest

check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test-more: $(SUITES:%=test-%)

test-%: .venv/installed
	$(BIN)/pytest tests/$*

# The same faults as in test-faults, each more often.
faults: .venv/installed
	FAULT_ROUNDS=$${FAULT_ROUNDS:-10} $(BIN)/pytest tests/faults

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@
