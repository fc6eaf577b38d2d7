# Developer commands; `make` lists them. Each sets up what it needs by itself, once.
#   PYTHON   the Python that the virtual environment is made from (3.11 or later)
#   JOBS     parallel test processes
PYTHON ?= python3
JOBS ?= auto

ENVIRONMENT := .venv
READY := $(ENVIRONMENT)/.ready
RUN := PYTHONPATH=simulator:tools $(ENVIRONMENT)/bin/python

.DEFAULT_GOAL := help
.PHONY: help build demo test check bench bench-peers bench-tiles fuzz mutants clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 16

build: $(READY) ## stage the pure-Python variants under build/
	@$(RUN) tools/stage.py

demo: build ## embed real sentences with a real model, then run its attention on the simulated GPU
	@$(RUN) -m demo

test: build check ## run all tests
	$(RUN) -m pytest -n $(JOBS)

check: $(READY) ## lint, and strict check of the shaders
	$(ENVIRONMENT)/bin/ruff check .
	@$(RUN) tools/check.py

bench: build ## run the benchmarks
	@for benchmark in planner cpu_ragged simulator; do \
	    echo "== benchmarks/$$benchmark.py"; $(RUN) benchmarks/$$benchmark.py || exit 1; \
	done

bench-peers: build ## count our kernels beside PyTorch's own on the simulator, with predicted times
	@$(RUN) benchmarks/peers.py

bench-tiles: build ## static budget of every kernel, and the counters behind the tile tables
	@$(RUN) benchmarks/tiles.py

fuzz: build ## 2,000 random problems on all features, on the CPU and the simulator
	$(RUN) -m pytest -n $(JOBS) tests/test_features.py --shards 10

mutants: build ## plant bugs in kernels and show what finds each of them
	@PYTHONPATH=simulator:tools:tests $(ENVIRONMENT)/bin/python -m mutants --json build/mutants.json

clean: ## remove what was built and set up
	rm -rf build $(ENVIRONMENT) .pytest_cache .ruff_cache .hypothesis

# Set up again when a pinned version changes.
$(READY): requirements-torch.txt requirements.txt tools/setup.sh
	@tools/setup.sh $(PYTHON) $(ENVIRONMENT)
	@touch $@
