# Each target makes or reuses .venv by itself. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install quickstart test test-slow lint benchmark lock clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/python train.py experiment=dadpo_quickstart

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder # else the slowest files, of few tests, come last

# Killed runs, several processes, every option from end to end: what `make test` leaves out.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist load -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

benchmark: $(STAMP)
	for name in dadpo dadpo_growth goodput plan rast sampling templates; do $(BIN)/python -m benchmarks.$$name || exit 1; done

# The lock holds what `pip install .[dev,…]` resolves to; the pins of torch's own GPU libraries come with torch.
lock:
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet torch==2.13.0
	$(VENV)-lock/bin/pip install --quiet --upgrade setuptools '.[dev,judge,sweep,tensorboard]'
	$(VENV)-lock/bin/pip freeze --all --exclude smoothtalk --exclude pip | grep -v '^nvidia-\|^triton\|^cuda-' | sed 's/^torch==\([^+]*\).*/torch==\1/;s/ @ file.*//' > requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf cache outputs
