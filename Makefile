# Every target creates .venv and installs what it needs when missing.
#   PYTHON    the interpreter that .venv is made with: 3.11, 3.12 or 3.13
#   PIP_ARGS  more arguments for pip, such as --extra-index-url https://download.pytorch.org/whl/cpu

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCHMARKS := $(filter-out benchmarks/common.py benchmarks/nets.py benchmarks/search_units.py, \
	$(sort $(wildcard benchmarks/[a-z]*.py)))
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

# The demo's search: its target, as a share of the way from the fastest to the slowest network, and how long it trains.
TARGET_SHARE := 0.4
WARMUP_EPOCHS := 8
SEARCH_EPOCHS := 16
FINAL_EPOCHS := 20
TARGET = $(BIN)/python -c 'import json; r = json.load(open("results/range.json")); \
	print("%.3g" % (r["min"] + $(TARGET_SHARE) * (r["max"] - r["min"])))'

.PHONY: help demo test check bench clean

help:
	@echo "make demo    profile this machine's CPU, compare predicted and measured latency, search, train: results/"
	@echo "make test    run the tests"
	@echo "make check   check format, style and types"
	@echo "make bench   run the benchmarks with short settings"
	@echo "make clean   remove .venv, caches and build output; results/ stays"

# Exit code 1 means done, with doubts that the output names: on a busy machine a demo still shows what it found.
demo: $(INSTALLED)
	$(BIN)/hwnas profile --device cpu --space proxyless --out results/cpu.db || [ $$? -eq 1 ]
	$(BIN)/hwnas table show results/cpu.db
	$(BIN)/hwnas compare --predictor results/cpu.db --device cpu --space proxyless --networks 20 --out results/compare \
		|| [ $$? -eq 1 ]
	$(BIN)/hwnas profile --device cpu --space proxyless-small --out results/small.db || [ $$? -eq 1 ]
	$(BIN)/hwnas table range results/small.db --space proxyless-small --json results/range.json
	$(BIN)/hwnas search --space proxyless-small --data digits:28 --predictor results/small.db --target $$($(TARGET)) \
		--warmup-epochs $(WARMUP_EPOCHS) --epochs $(SEARCH_EPOCHS) --final-epochs $(FINAL_EPOCHS) --out results/search \
		|| [ $$? -eq 1 ]
	$(BIN)/hwnas compare --predictor results/small.db --device cpu --space proxyless-small \
		--arch results/search/architecture.json --out results/compare-found || [ $$? -eq 1 ]

# By file, since what a file's tests share is made once for it; each process holds torch, so not one for every core.
test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# The folder is the package, whatever it is called: mypy finds it by its own name through a link.
check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	mkdir -p $(VENV)/link && ln -sfn ../.. $(VENV)/link/hwnas
	MYPYPATH=$(VENV)/link $(BIN)/mypy -p hwnas

bench: $(INSTALLED)
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python "$$script" --quick; done

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# build/ is removed first: a stale one would ship deleted modules.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit( \
		"hwnas needs Python 3.11 to 3.13; $(PYTHON) is %d.%d: make PYTHON=python3.12" % v)'
	rm -rf build
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(PIP_ARGS) --quiet --constraint constraints.txt setuptools
	$(PIP) install $(PIP_ARGS) --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@
