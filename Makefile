# `make test` and `make leaderboard` need nothing but python3 (3.11 or 3.12) and make: the first of them sets up .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: test test-slow lint bench leaderboard clean

# a worker for each core; a file's tests stay together, for they share what they have trained
test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(READY)
	@set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script; done

leaderboard: $(READY)
	$(BIN)/samzoo leaderboard --fit $(if $(SUITE),--suite "$(SUITE)")

# timm brings torchvision along. Where torch is built for the CPU only, a torchvision that is built for CUDA can't load its
# operators ("operator torchvision::nms does not exist") and makes torchmetrics and lightning fail on import. Nothing
# here needs torchvision, so it goes if it doesn't work.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "samzoo needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,tensorboard]'
	$(BIN)/python -c 'import torchvision' 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes torchvision
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
