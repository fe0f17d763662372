# make serve   a virtual environment, the embedded model, and the server on 127.0.0.1:30000
# make test    all tests          make lint   style, types and architecture
# make sim     the simulator: make sim SEEDS=1000

PYTHON ?= python3
VENV   ?= .venv
SEEDS  ?= 200
ARGS   ?=

BIN := $(VENV)/bin
SERVE_READY := $(VENV)/.serve-ready
TEST_READY  := $(VENV)/.test-ready

.PHONY: serve test lint sim clean

serve: $(SERVE_READY)
	$(BIN)/python -m runtime.serve $(ARGS)

test: $(TEST_READY)
	$(BIN)/python -m pytest $(ARGS)

lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sim: $(TEST_READY)
	$(BIN)/python -m tests.sim --seeds $(SEEDS) $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Callboard needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(SERVE_READY): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(TEST_READY): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'sglang==0.4.3.post2'  # tests compare with its frontend
	touch $@ $(SERVE_READY)
