# Needs make, python3.11 and the package index; everything else is in the lock.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
PYTEST := JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n 2

.PHONY: venv quickstart quickstart-tiny recipes test test-slow faults lint \
  lock clean

venv: $(STAMP)

# setuptools comes first and from the lock, so that nothing is built with an
# unpinned tool (one dependency, promise, exists as source only).
$(STAMP): requirements.lock setup.py
	@echo "Installing pinned packages into .venv (1 to 3 minutes) ..."
	@$(PYTHON) -m venv --clear .venv
	@awk '/^[a-z]/ {keep = /^(setuptools|wheel)==/} keep' requirements.lock \
	  > .venv/build.lock
	@$(PIP) install --require-hashes --no-deps -r .venv/build.lock
	@$(PIP) install --require-hashes --no-build-isolation -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
	@echo "Installed; commands are in $(BIN)."

quickstart: $(STAMP)
	$(BIN)/xpo run --config=configs/quickstart.py:smollm --workdir=runs/quickstart

quickstart-tiny: $(STAMP)
	$(BIN)/xpo run --config=configs/quickstart.py:tiny \
	  --workdir=runs/quickstart-tiny

# All recipes on the quickstart's model, one table: hours on a laptop.
recipes: $(STAMP)
	$(BIN)/python benchmarks/recipes.py smollm

test: $(STAMP)
	$(PYTEST)

test-slow: $(STAMP)
	$(PYTEST) -m slow

# Kills, signals, damaged files, a full disk: prints a line of figures each.
faults: $(STAMP)
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest tests/faults -m faults

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell xpo_jax configs launch README.md CONTRIBUTING.md CHANGELOG.md

# Rewrites requirements.lock from setup.py; needs `uv`.
lock:
	uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	  --no-emit-index-url --no-annotate --no-header --extra dev --extra demo \
	  --output-file requirements.lock setup.py

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache build dist *.egg-info
