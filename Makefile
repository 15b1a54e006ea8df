# runner-supervisor: everything a newcomer needs is `make start` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := build/installed
PATHS := supervisor builders tests tools bench
COMPILED_TESTS := $(patsubst %,tests/e2e/test_%.py,audit conversations crash fidelity fuzz limits load metrics openai_client \
	penetration reload scopes streaming tls traces truth)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help start test test-compiled lint audit format docs demo-model bench soak reproducible portable-check clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "runner-supervisor needs Python 3.11 or newer; name one with make PYTHON=python3.11")'
	@echo 'making $(VENV) and installing the package into it'
	@$(PYTHON) -m venv $(VENV)
	@RUNNER_COMPILE=0 $(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@RUNNER_COMPILE=0 $(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

$(INSTALLED)/.installed: pyproject.toml tools/compile_front.py docs/runner-supervisor.1 $(shell find supervisor builders third_party/llama.cpp.lock.toml third_party/patches -not -name '__pycache__' -not -name '*.pyc')
	@echo 'compiling the front and installing it into $(INSTALLED), as users have it'
	@$(PYTHON) -m venv $(INSTALLED)
	@RUNNER_COMPILE=1 $(INSTALLED)/bin/pip install --quiet '.[otel,redis]'
	@touch $@

start: $(VENV)/.installed ## build llama-server if need be and serve; MODEL=path.gguf serves that file; ARGS are start's
	@$(BIN)/runner-supervisor start $(if $(MODEL),--model "$(MODEL)") $(ARGS)

test: $(VENV)/.installed-dev ## the whole suite, on a real llama-server; ARGS="-k name" picks tests
	@$(BIN)/python -m pytest --cov --cov-report=term $(ARGS)

test-compiled: $(VENV)/.installed-dev $(INSTALLED)/.installed ## end-to-end tests of the data path, compiled as users have it
	@INSTALLED_PYTHON=$(CURDIR)/$(INSTALLED)/bin/python $(BIN)/python -m pytest $(COMPILED_TESTS) $(ARGS)

lint: $(VENV)/.installed-dev ## format, style, types, import directions, unsafe calls
	$(BIN)/ruff format --check $(PATHS)
	$(BIN)/ruff check $(PATHS)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml supervisor builders tools

audit: $(VENV)/.installed-dev ## known faults of the packages that are installed; needs the vulnerability service
	$(BIN)/pip-audit --strict --skip-editable

format: $(VENV)/.installed-dev ## put the code in its format
	$(BIN)/ruff format $(PATHS)
	$(BIN)/ruff check --fix $(PATHS)

docs: $(VENV)/.installed-dev ## write the generated documents again
	$(BIN)/python -m tools.generate_docs

demo-model: $(VENV)/.installed ## train the demo model again (about 20 minutes on one core); needs PyTorch, which it installs
	@RUNNER_COMPILE=0 $(BIN)/pip install --quiet --editable '.[demo]'
	@$(BIN)/python -m tools.demo_model.train $(ARGS)

bench: $(VENV)/.installed-dev $(INSTALLED)/.installed ## measure the front beside nginx; ARGS="--rounds 5 --picture out.png w2 w3" picks
	@$(BIN)/python -c "import matplotlib" 2>/dev/null || RUNNER_COMPILE=0 $(BIN)/pip install --quiet --editable '.[bench]'
	@INSTALLED_PYTHON=$(INSTALLED)/bin/python $(BIN)/python -m bench $(ARGS)

soak: $(VENV)/.installed-dev ## load and faults for MINUTES (24) minutes, then a ledger of every request
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),24)

reproducible: $(VENV)/.installed-dev ## build llama-server twice, in different folders, and compare; ARGS=--beside builds once
	@$(BIN)/python -m tools.reproducible $(ARGS)

portable-check: $(VENV)/.installed-dev ## build for every processor and run it as a Haswell; needs qemu-user
	@$(BIN)/python -m tools.portable $(ARGS)

clean: ## remove what make made here; the build cache stays
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.*
