# What people type. CI types the same: .ci/run.
.DEFAULT_GOAL := help
.PHONY: help demo quick test nightly faults scenarios soak fuzz test-matrix differential lint types map bench bench-micro venv rabbit
.PHONY: late interop-js browser clean compiled compiler wheels
.NOTPARALLEL:

PY := .venv/bin/python
JS := tests/interop/js
CODE := $(wildcard src tests tools examples benchmarks docs/migrate/code hatch_build.py)
# Parallel workers with a broker each, see tests/support/lanes.py; another number: make test LANES="-n 2"
LANES := -n auto
# One for each core, as the tests of the quick lane hardly wait.
QUICK_LANES := -n logical
QUICK := tests/test_architecture.py tests/test_docs.py tests/test_sizes.py tests/unit tests/property
# What is run on the compiled hot path every night; tests/test_wheel.py runs some of it with `make test`, and
# tests/support/both_ways.py has what is left out, and why.
COMPILED := tests/unit tests/property tests/contract
export DEBIAN_FRONTEND := noninteractive
# Hundreds of processes that the tests start import Warren; with compiled files each takes a second less.
unexport PYTHONDONTWRITEBYTECODE

# The first Python that is new enough; `make PYTHON=/path/to/python` to choose.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)

# $(call need,check,packages): if the check fails, install the Debian packages as root, or say what is missing.
define need
{ $(1); } >/dev/null 2>&1 || { \
	echo "missing: $(2)"; \
	[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "run: sudo apt-get install $(2)"; exit 1; }; \
	apt-get -q -o DPkg::Lock::Timeout=300 update && \
	apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $(2); }
endef

help:  ## what there is to type
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r v t; do printf '  make %-12s %s\n' "$$v" "$$t"; done

demo: .venv/$(if $(findstring --operate,$(ARGS)),,core-)stamp  ## every feature in one sitting, on an embedded broker; on RabbitMQ: ARGS="--url amqp://localhost"; a shop and the dashboard: ARGS=--operate
	@$(PY) -m warren demo $(ARGS)

quick: venv  ## tests of pure modules, architecture and docs, in less than a minute and without RabbitMQ
	@$(PY) -m pytest $(QUICK_LANES) -m "not slow" --hypothesis-profile=quick $(QUICK) $(ARGS)

test: venv rabbit browser interop-js compiler  ## all tests, in parallel, each worker with a RabbitMQ; more options: make test ARGS="-k name"
	@$(PY) -m pytest $(LANES) -m "not nightly" $(ARGS)

nightly:  ## the long ones, one after the other: tests, soak, fuzz, differential, newer brokers (root), hot path compiled, benchmarks
	@$(MAKE) --keep-going test late soak fuzz differential test-matrix compiled bench

late: venv  ## faults that are put into the source, and found late
	@$(PY) -m pytest $(LANES) -m nightly tests/property $(ARGS)

soak: venv rabbit  ## ten minutes of calls under random faults, all accounted for; make soak ARGS="--minutes 60 --seed 7"
	@PYTHONPATH=.:tools $(PY) -m tests.faults.soak $(ARGS)

faults: venv rabbit  ## the fault scenarios only
	@$(PY) -m pytest $(LANES) tests/faults $(ARGS)

scenarios: venv  ## write docs/reliability-scenarios.md, from the marks of the fault scenarios
	@$(PY) -m pytest tests/faults --collect-only -qq --scenario-table docs/reliability-scenarios.md

test-matrix: venv rabbit  ## contract and fault suites on RabbitMQ 4.0 and 4.3, in chroots (root); one of both, one suite: ARGS="--only sid -n 2 PATH"
	@$(PY) tools/matrix.py $(ARGS)

fuzz: venv  ## fuzz decoders and request path for a minute each; longer: make fuzz ARGS=600
	@$(PY) -m tests.fuzz $(ARGS)

differential: venv rabbit  ## made-up AMQP operations on RabbitMQ and the embedded broker, for some minutes
	@$(PY) -m pytest $(LANES) tests/differential --hypothesis-profile=thorough --timeout 3600 $(ARGS)

compiled: venv rabbit compiler  ## compile the hot path with mypyc, outside the tree, and test that; others: ARGS=tests/faults
	@$(PY) tools/hot.py $(LANES) $(or $(ARGS),$(COMPILED))

compiler: venv  ## make sure that there is a C compiler, for the compiled hot path
	@$(call need,$(CC) -E -include Python.h -I$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("include"))') -x c /dev/null,gcc python3-dev)

wheels: venv compiler  ## dist/: a compiled wheel for each Python of this machine, and one of plain Python
	@$(PY) tools/wheels.py $(ARGS)

lint: venv  ## ruff: rules and formatting
	@.venv/bin/ruff check $(CODE)
	@.venv/bin/ruff format --check $(CODE)

types: venv  ## mypy, strict; Pyright of the examples
	@.venv/bin/mypy
	@$(PY) -m basedpyright --project examples

map: venv  ## which room of the source imports which, and how long its parts are; a drawing: make map ARGS=--mermaid
	@$(PY) tools/floorplan.py $(ARGS)

bench: venv rabbit .venv/bench-stamp  ## speed beside other libraries and C; quicker: make bench ARGS=--quick
	@$(call need,$(CC) -E -include amqp.h -x c /dev/null,gcc libc6-dev librabbitmq-dev)
	@$(call need,PATH=$$PATH:/usr/sbin command -v nats-server,nats-server)
	@$(PY) -m benchmarks $(ARGS)

bench-micro: venv .venv/bench-stamp  ## time of each step of the hot path; counted: make bench-micro ARGS=--instructions
	@$(PY) -m benchmarks.micro $(ARGS)

venv: .venv/stamp  ## .venv with Warren (editable) and its tools; redone when pyproject.toml changes

rabbit:  ## make sure RabbitMQ is installed
	@$(if $(PYTHON),$(PYTHON),python3) tools/rabbit.py install

browser:  ## make sure that there is a browser, for the dashboard's tests and pictures
	@$(call need,command -v chromium,chromium fonts-dejavu-core)

interop-js: $(JS)/node_modules/.stamp  ## the JavaScript client for the interop tests

clean:  ## remove everything that make and the tools made
	rm -rf .venv $(JS)/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build dist
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# Warren and what it needs to run. The demo needs no more: it is the first thing that somebody tries.
.venv/core-stamp: pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "missing: Python >= 3.11 (none on PATH; or: make PYTHON=/path/to/python)"; exit 1; }
	@$(call need,$(PYTHON) -c 'import ensurepip; import venv',python3-venv)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@WARREN_PURE=1 $(PY) -m pip install -q --disable-pip-version-check -e .
	@touch $@

.venv/stamp: .venv/core-stamp
	@WARREN_PURE=1 $(PY) -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

.venv/bench-stamp: .venv/stamp
	@WARREN_PURE=1 $(PY) -m pip install -q --disable-pip-version-check -e '.[bench]'
	@touch $@

$(JS)/node_modules/.stamp: $(JS)/package.json $(JS)/package-lock.json
	@$(call need,command -v node && command -v npm,nodejs npm)
	@npm ci --loglevel=error --no-audit --no-fund --prefix $(JS)
	@touch $@
