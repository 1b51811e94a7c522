# Skein: everything a fresh clone on a Debian with Rust needs. `make` lists the targets.
#
# The binaries and the tests share one compile profile (dev) and one invocation, so nothing
# is compiled twice. The binaries lie beside the folder of the test executables:
# $CARGO_TARGET_DIR/debug/{skein,skein-master,skein-agent} (default: target/debug), and a test
# finds them through its own path: current_exe()/../../skein-master.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
# A stale lock file is an error in CI, and brought up to date while somebody edits manifests.
LOCKED := $(if $(CI),--locked)
# Extra arguments: make test ARGS='-p skein-master-core', make bench ARGS='writes'.
ARGS ?=

.PHONY: help
help: ## Show the targets
	@echo 'Skein: make TARGET [ARGS=...]'
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

.PHONY: setup
setup: ## Install Docker when missing, start its daemon, build the sample images (silent when done)
	@tests/setup.sh

.PHONY: build
build: ## Build the binaries and the tests (debug)
	$(CARGO) build --workspace $(LOCKED) --bins --tests

.PHONY: release
release: ## Build the binaries stripped and optimised (target/release)
	$(CARGO) build $(LOCKED) --release -p skein-master -p skein-agent -p skein-cli

.PHONY: test
test: setup build ## Run every test: unit, property, simulation, integration, end-to-end
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    set -x; $(CARGO) nextest run --workspace $(LOCKED) $${CI:+--profile ci} $(ARGS); \
	else \
	    set -x; $(CARGO) test --workspace $(LOCKED) --bins --lib --tests $(ARGS) -- --test-threads 2; \
	fi

.PHONY: demo
demo: setup ## Three masters and three agents run a real service and survive faults; leaves it running
	@tests/demo/demo.sh

.PHONY: demo-down
demo-down: ## Remove every trace of the demo
	@tests/demo/down.sh

.PHONY: bench
bench: setup ## Measure and print the tables (release build; compares with Debian's etcd, HAProxy, nginx)
	@tests/bench.sh $(ARGS)

.PHONY: soak
soak: setup build ## Kill everything at random for ten minutes under load, then check (ARGS='--minutes 2 --seed 7')
	@$(TARGET)/debug/soak $(ARGS)

.PHONY: lint
lint: ## Check the formatting and run clippy (and cargo-deny where installed)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets $(LOCKED) -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then set -x; $(CARGO) deny --offline check bans licenses sources; fi

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: clean
clean: demo-down ## Remove the demo and what was compiled
	$(CARGO) clean
