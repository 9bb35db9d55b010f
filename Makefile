# make demo    set up, train the digits with the order-2 objective (minutes on two CPU cores), sample and evaluate;
#              DEMO_STEPS=60 is a short one that goes the whole way, with samples that are noise still
# make text-demo  set up, train a small text-to-image network on captioned digits, make few-step models of it by full tuning and
#              by LoRA, measure them; more than half an hour on two CPU cores
# make test    set up, lint, run the whole test suite
# make numbers the tests that compare numbers, once more as other processors and thread counts compute them
# make help    the other targets

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml constraints.txt $(shell find csrc -type f)

# A process for each core, each given whole files; a process takes up to 1.5 GB.
PYTEST := $(BIN)/python -m pytest
SPREAD := -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo text-demo moons bench docs test numbers lint format clean

help:
	@sed -n 's/^# \(make .*\|  .*\)/\1/p' Makefile
	@echo "make moons   reproduce the table of orders against EMA decays on two moons"
	@echo "make bench   measure the kernels on this machine and rewrite the result pages"
	@echo "make docs    build the documentation site into site/; broken links and docstrings fail"
	@echo "make format  format and fix what the linter can fix"
	@echo "make clean   remove the environment and all build products"

# What the demos need is part of what the tests need. A build keeps its objects (setup.py), so the second set-up of the two
# compiles nothing again.
define set-up
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(1)]"
endef

$(VENV)/.demo: $(SOURCES)
	$(call set-up,train)
	@touch $@

$(VENV)/.text: $(SOURCES)
	$(call set-up,text)
	@touch $(VENV)/.demo $@

$(VENV)/.test: $(SOURCES)
	$(call set-up,test)
	@touch $(VENV)/.demo $(VENV)/.text $@

# Fewer steps than the configuration's; empty for all of them.
DEMO_STEPS ?=

demo: $(VENV)/.demo
	$(BIN)/rcgm train configs/digits.yaml $(if $(DEMO_STEPS),steps=$(DEMO_STEPS)) --output runs/digits
	$(BIN)/rcgm sample runs/digits --steps 1,2,4,32 --count 20 --data --output runs/digits/samples.png
	$(BIN)/rcgm evaluate runs/digits --steps 1,2,4

text-demo: $(VENV)/.text
	$(BIN)/python -m benchmarks.captioned_digits

moons: $(VENV)/.demo
	$(BIN)/python -m benchmarks.moons

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.pages

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

test: $(VENV)/.test lint
	$(PYTEST) $(SPREAD)

# As a processor without vector instructions computes, on one thread, and as one with AVX2 and no AVX-512, on two; the
# tests of the kernels themselves set their instruction sets and threads, and are left out of the second.
numbers: $(VENV)/.test
	ATEN_CPU_CAPABILITY=default RCGM_CPU_ISA=baseline OMP_NUM_THREADS=1 $(PYTEST) $(SPREAD) -m numbers
	if $(BIN)/python -c "from rcgm_kernels.backends import cpu; exit('avx2' not in cpu.instruction_sets())"; then \
		ATEN_CPU_CAPABILITY=avx2 RCGM_CPU_ISA=avx2 OMP_NUM_THREADS=2 $(PYTEST) -m threads tests/rcgm; \
	fi

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info runs .pytest_cache .ruff_cache .hypothesis
	find rcgm_kernels -name '*.so' -delete
