PYTHON ?= python3
BIN = .venv/bin
PIP_INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check

# The extras that `make run` installs, separated by commas.
RUN_EXTRAS = embedded,metrics,otlp,sentry,speedups,viewer

# The suites that need more than Python. Each is a folder of tests/ and runs with `make test-FOLDER`.
SUITES = browsers citus databases deploy faults hostile otlp schemas sdks servers viewer

.PHONY: run demo test test-lowest check test-more bench bench-peers bench-steady bench-growth bench-read faults fuzz schemas

# How long `make fuzz` runs, in seconds.
FUZZ_SECONDS ?= 60
# The length of one benchmark run in seconds, and the number of rounds. The median of the rounds is printed.
SECONDS_EACH = 10
ROUNDS = 5

run: .venv/run
	$(BIN)/opensentry-ingest serve --view-port 3002

# Beside `make run`.
demo: .venv/run
	$(BIN)/python tools/demo.py

# Half of the time of the core tests is waiting. Each worker has a PostgreSQL of its own, so that a single one, which
# TEST_DATABASE_URL names, has a single worker. A file goes to one worker, because its tests share a database.
WORKERS = $(if $(TEST_DATABASE_URL),0,2)

test: .venv/installed
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile

# With the lowest version of each dependency that setup.cfg allows.
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/pytest --numprocesses $(WORKERS) --dist loadfile

# What bandit finds and is meant so: binding to all interfaces on request, a subprocess of our own program (B404, B603),
# the name of the setting of a password (B105), and Markup, whose format() escapes (B704).
ACCEPTED = B104,B105,B404,B603,B704

check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/bandit --quiet --confidence-level medium --skip $(ACCEPTED) --recursive opensentry_ingest wsgi.py
	$(BIN)/python .ci/audit

# Needs atheris, which has wheels for CPython 3.11 to 3.14 on Linux. Failing inputs are saved as fuzz/crash-*.
fuzz: .venv/installed
	$(BIN)/python fuzz/ingest.py -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -artifact_prefix=fuzz/ -print_final_stats=1

bench: .venv/installed .bench/installed
	$(BIN)/python -m bench.speed --seconds $(SECONDS_EACH) --rounds $(ROUNDS)

# These make many more runs than the others, so each run is shorter.
bench-peers: SECONDS_EACH = 2
bench-peers: ROUNDS = 3
bench-peers: .venv/installed .bench/installed .bench/bugsink/installed .bench/fastapi/installed
	$(BIN)/python -m bench.peers --bugsink .bench/bugsink/bin --fastapi .bench/fastapi/bin \
		--seconds $(SECONDS_EACH) --rounds $(ROUNDS)

bench-steady: SECONDS_EACH = 5
bench-steady: ROUNDS = 2
bench-steady: .venv/installed .bench/installed
	$(BIN)/python -m bench.steady --seconds $(SECONDS_EACH) --rounds $(ROUNDS)

# The table sizes at which throughput is measured, and the number of requests over which memory is measured.
ROWS = 0 1000000 10000000
REQUESTS = 1000000

bench-growth: .venv/installed .bench/installed
	$(BIN)/python -m bench.growth --rows $(ROWS) --requests $(REQUESTS) --seconds $(SECONDS_EACH) --rounds $(ROUNDS)

# Rows of each kind that pages and views are measured on.
READ_ROWS = 1000000

bench-read: .venv/installed
	$(BIN)/python -m bench.read --rows $(READ_ROWS) --rounds $(ROUNDS)

.bench/bugsink/installed:
	$(PYTHON) -m venv --upgrade-deps .bench/bugsink
	.bench/bugsink/bin/pip install --quiet --disable-pip-version-check bugsink
	touch $@

.bench/fastapi/installed: bench/requirements-fastapi.txt
	$(PYTHON) -m venv --upgrade-deps .bench/fastapi
	.bench/fastapi/bin/pip install --quiet --disable-pip-version-check --requirement bench/requirements-fastapi.txt
	touch $@

.bench/installed:
	command -v wrk || { apt-get update -q && apt-get install -q --yes --no-install-recommends wrk; }
	mkdir -p .bench && touch $@

# The bundle and the types are generated from the schema files. Commit them together.
schemas: .venv/installed
	$(BIN)/python tools/schemas.py
	npm install --silent --no-package-lock --no-audit --no-fund --prefix tests/schemas
	tests/schemas/node_modules/.bin/json2ts -i schemas/ingest.bundle.json --ignoreMinAndMaxItems -o schemas/index.d.ts

test-more: $(SUITES:%=test-%)

test-%: .venv/installed
	$(BIN)/pytest tests/$*

test-otlp: .venv-otlp/installed

# The same faults as in `make test-faults`, more rounds of each.
faults: .venv/installed
	FAULT_ROUNDS=$${FAULT_ROUNDS:-10} $(BIN)/pytest tests/faults

# One environment that grows: first what the service needs, later the test tools as well. `.venv/installed` does not
# depend on `.venv/run`, because pip would then run twice on a new machine.
.venv/run: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) --editable '.[$(RUN_EXTRAS)]'
	touch $@

# Upgrades pip and setuptools too: `make check` audits them, and those that Python bundles have known vulnerabilities.
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv --upgrade-deps .venv
	$(PIP_INSTALL) --editable '.[$(RUN_EXTRAS),test]'
	touch .venv/run $@

# Of the extra `test`, only what the core tests import.
.venv-lowest/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv --upgrade-deps .venv-lowest
	sed -En 's/^ +([a-z.-]+)(\[.*\])?>=/\1==/p' setup.cfg > .venv-lowest/constraints.txt
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --constraint .venv-lowest/constraints.txt \
		--editable '.[$(RUN_EXTRAS)]' hypothesis psutil pytest pytest-xdist webtest
	touch $@

# The clients of the suite `otlp`, with exact versions, because what they send differs between them.
.venv-otlp/installed: tests/otlp/requirements.txt tests/otlp/requirements-openai-v2.txt
	$(PYTHON) -m venv --upgrade-deps .venv-otlp
	.venv-otlp/bin/pip install --quiet --disable-pip-version-check --requirement tests/otlp/requirements.txt
	.venv-otlp/bin/pip install --quiet --disable-pip-version-check --target .venv-otlp/openai-v2 --no-deps --upgrade \
		--requirement tests/otlp/requirements-openai-v2.txt
	touch $@
