# The commands of this project. `make` alone lists them.
PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The CPU build of torch is enough for compression and evaluation.
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test fuzz bench bench-peers check format clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

install: $(STAMP) ## make .venv with everything in it

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Deltafleet needs Python 3.11 or later with venv (Debian: apt-get install python3 python3-venv), or PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar on -e '.[agent,server,compression,dev]'
	@touch $@

demo: install ## publish, enrol 8 vehicles, roll out twice, print the table (KEEP=1 leaves it running)
	$(BIN)/python -m examples.demo $(if $(KEEP),--keep)

test: install ## install what the tests need and run them
	sh scripts/test-setup
	$(BIN)/pytest -n 2 --dist loadfile

fuzz: install ## hostile artifacts against both decoders, 100,000 from each of two engines (INPUTS=n)
	$(BIN)/pip install --quiet --progress-bar on -e '.[fuzz]'
	$(BIN)/deltafleet bench fuzz --inputs $(or $(INPUTS),100000)

bench: install bench-peers ## bytes beside general tools on real networks; teaches them first, once (ONLY=scenario, JSON=file)
	$(BIN)/deltafleet bench bytes $(addprefix --only ,$(ONLY)) $(if $(JSON),--json > $(JSON))

bench-peers: install ## install the general tools that the benchmark compares with
	@for peer in 'brotli>=1.1' 'detools>=0.53' 'hdiffpatch>=2.6'; do $(BIN)/pip install --quiet --progress-bar on "$$peer" \
	  || echo "$$peer could not be installed; the table will name it as missing" >&2; done
	@command -v xdelta3 >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -y --no-install-recommends xdelta3; } \
	  || sudo -n apt-get install -y --no-install-recommends xdelta3 \
	  || echo "xdelta3 could not be installed; the table will name it as missing" >&2

check: install ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what the commands above made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache demo-data
