# Developer commands; `make` lists them. Each sets up what it needs by itself, once.
#   PYTHON   the Python that the virtual environment is made from (3.11 or later)
#   JOBS     parallel test processes
PYTHON ?= python3
JOBS ?= auto

ENVIRONMENT := .venv
READY := $(ENVIRONMENT)/.ready
C_SOURCES = '*.c' '*.h' '*.cpp' '*.mm' '*.metal' '*/include/metal_*'
RUN := PYTHONPATH=simulator:tools $(ENVIRONMENT)/bin/python

.DEFAULT_GOAL := help
.PHONY: help build wheel release-check demo selftest test test-all lint check check-build mac launchers bench bench-peers \
    bench-tiles test-simulator fuzz fast-math expressions mutants nvidia clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 21

build: $(READY) ## write the kernels' instances and what the package embeds, stage the pure-Python variants under build/
	@$(RUN) tools/instantiate.py
	@$(RUN) tools/embed.py
	@$(RUN) tools/stage.py

wheel: $(READY) ## pack the pure-Python wheel under dist/, and the simulator's under dist/simulator/
	@$(RUN) tools/wheel.py
	@$(ENVIRONMENT)/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist/simulator ./simulator

release-check: $(READY) ## the dry run of a release (docs/releasing.md): both wheels built, checked and used; TAG=v1.0.0 compares the tag
	@$(RUN) tools/release.py $(if $(TAG),--tag $(TAG))

demo: build ## embed real sentences with a real model, then run its attention on the simulated GPU
	@$(RUN) -m demo

test: build check ## run the tests; of long ones, a sample of their problems
	$(RUN) -m pytest -n $(JOBS)

test-all: build check ## run all tests on all their problems, as every night
	$(RUN) -m pytest -n $(JOBS) --nightly

lint: $(READY) ## lint, formats, types, direction of the imports, workflows
	$(ENVIRONMENT)/bin/ruff check .
	$(ENVIRONMENT)/bin/ruff format --quiet --check .
	@git ls-files -- $(C_SOURCES) | xargs $(ENVIRONMENT)/bin/clang-format --dry-run --Werror
	$(ENVIRONMENT)/bin/mypy --no-error-summary
	@$(RUN) tools/imports.py
	$(ENVIRONMENT)/bin/zizmor --offline --quiet .github/workflows

check: lint ## lint; strict check of the shaders, type check of the Objective-C++ for macOS
	@$(RUN) tools/check.py
	@$(RUN) tools/typecheck.py

check-build: $(READY) ## check build.toml, the card and the layout of the compiled variants as the kernel builder makes them
	@$(RUN) tools/check_build.py

mac: ## on a Mac: Apple's compiler and headers on every kernel and the launcher, and the self-test
	@command -v xcrun >/dev/null || { echo "make mac: this needs a Mac with Xcode 26; elsewhere, make check" >&2; exit 2; }
	@test -x $(ENVIRONMENT)/bin/python || $(PYTHON) -m venv $(ENVIRONMENT)
	@$(ENVIRONMENT)/bin/python -m pip install --quiet --requirement requirements-torch.txt
	@$(RUN) tools/mac.py

selftest: build ## run the self-test that users run, here on the CPU
	@$(RUN) tools/selftest.py --report build/selftest.json

launchers: build ## compare the run-time launcher's sources with the function constants' on 300 problems, simulated
	LAUNCHER_CASES=300 $(RUN) -m pytest --nightly tests/launchers/test_same_plan.py -k strict

bench: build ## run the benchmarks
	@for benchmark in planner overhead cpu_ragged cpu_dense memory simulator; do \
	    echo "== benchmarks/$$benchmark.py"; $(RUN) benchmarks/$$benchmark.py || exit 1; \
	done

bench-peers: build ## count our kernels beside PyTorch's own and beside the floor, on the simulator, with predicted times
	@$(RUN) benchmarks/peers.py
	@$(RUN) benchmarks/peers_backward.py
	@$(RUN) benchmarks/decode.py
	@$(RUN) benchmarks/serving.py
	@$(RUN) benchmarks/matrix_unit.py --tokens 1024 --tokens 8192

bench-tiles: build ## static budget of every kernel, the counters behind the tile tables, and bf16 beside fp16
	@$(RUN) benchmarks/tiles.py
	@$(RUN) benchmarks/backward_tiles.py
	@$(RUN) benchmarks/bf16.py
	@$(RUN) benchmarks/bias.py

test-simulator: $(READY) ## the simulator's own tests; METAL_SIMULATOR_CLANG=17 (to 22) is the clang to test with
	$(RUN) -m pytest -n $(JOBS) --nightly simulator/tests

fuzz: build ## thousands of random problems: features, gradients, biases, SDPA; on the CPU and, checked, on the simulator
	$(RUN) -m pytest -n $(JOBS) --nightly -p metal_simulator.pytest_plugin --metal-check tests/test_features.py tests/test_bias.py \
	    tests/backward/test_random.py tests/backward/test_bias.py tests/doors/test_sdpa.py --shards 10

fast-math: build ## the numeric tests, with every kernel compiled as in the compiled variant, simulated
	$(RUN) -m pytest -n $(JOBS) --nightly --fast-math --shards 20 tests -k fast_math

expressions: $(READY) ## 10,000 random Metal programs on the simulator, each beside NumPy; what fails is made small
	@PYTHONPATH=simulator:simulator/tests $(ENVIRONMENT)/bin/python -m expressions --programs 10000

mutants: build ## plant bugs in kernels and show what finds each of them
	@PYTHONPATH=simulator:tools:tests:tests/support $(ENVIRONMENT)/bin/python -m mutants --json build/mutants.json

nvidia: $(READY) ## build the kernels for NVIDIA GPUs, to be run at full size on a machine that has one
	@$(RUN) tests/nvidia/build.py
	@echo "Copy the repository with build/nvidia to a machine with an NVIDIA GPU (compute capability 9.0), torch, NumPy,"
	@echo "pytest and hypothesis; there: python3 tests/nvidia/stages.py"

clean: ## remove what was built and set up
	rm -rf build dist $(ENVIRONMENT) .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Set up again when a pinned version changes.
$(READY): requirements-torch.txt requirements.txt tools/setup.sh
	@tools/setup.sh $(PYTHON) $(ENVIRONMENT)
	@touch $@
