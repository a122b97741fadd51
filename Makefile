# Every target sets up what it needs; a second run starts in seconds.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RPC := .venv-rpc
SUITE := $(VENV)/share/json-schema-test-suite
YJS := tests/yjs/node_modules/.ready
# Without AMX: GCC 12 drops most of a tile's description (its _tile_loadconfig says that it reads 8 bytes, not 64), and
# llama.cpp then ends at the first matrix product. Results are exact to the last bit only without it, too.
export CMAKE_ARGS := -DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__ $(CMAKE_ARGS)
PIP := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# The tests start hundreds of Pythons: each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo demo-economy quick test soak lint benchmark clean

help:
	@echo "make setup      private $(VENV) with all dependencies (llama.cpp compiles once, about 8 minutes on 2 cores)"
	@echo "make demo       three nodes on this machine answer a question together"
	@echo "make demo-economy  neighbours sell answers, lose their power, and cheat"
	@echo "make quick      style, types, and the tests that start no process: two minutes"
	@echo "make test       style, types and all tests: about half an hour on 2 cores"
	@echo "make soak       200 answers while stages are killed all the time (about 6 minutes)"
	@echo "make lint       style and types only"
	@echo "make benchmark  measured figures, as a table and as JSON"
	@echo "make clean      remove $(VENV) and everything that was built"

setup: $(READY)

$(READY): pyproject.toml constraints.txt hatch_build.py ainet/stages/llama/watch.c kernel/spec/kernel.json ainet/server/jupyter_server_config.d/ainet.json
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ainet needs Python 3.11 or newer; name one: make setup PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "== creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -c 'import llama_cpp' 2>/dev/null || { \
		command -v c++ >/dev/null || { echo "A C++ compiler is missing (Debian, Ubuntu: apt install build-essential)"; exit 1; }; \
		echo "== installing; llama.cpp is compiled for this machine: about 8 minutes on 2 cores, once, without output"; }
	@$(BIN)/python $(PIP) --editable '.[test]'
	@$(BIN)/python -c 'import sys, llama_cpp; sys.exit(b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info())' || { \
		echo "== a llama.cpp with AMX was kept from before: it is compiled again, about 8 minutes"; \
		$(BIN)/python -m pip cache remove --quiet llama_cpp_python; \
		$(BIN)/python $(PIP) --force-reinstall --no-deps llama-cpp-python; }
	@touch $@

demo: setup
	@$(BIN)/python notebooks/demo.py

demo-economy: setup
	@$(BIN)/python notebooks/demo.py economy

# An unmodified Yjs client, which the tests let join shared documents.
$(YJS): tests/yjs/package.json
	@command -v npm >/dev/null || { echo "The tests need Node.js with npm (Debian, Ubuntu: apt install nodejs npm)"; exit 1; }
	@npm install --prefix tests/yjs --silent --no-audit --no-fund --no-package-lock
	@touch $@

# The public test suite of JSON Schema, which the source package of `jsonschema` carries.
$(SUITE)/tests: | $(READY)
	@mkdir -p $(SUITE)
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary jsonschema \
		--constraint constraints.txt --dest $(SUITE) jsonschema
	@tar xzf $(SUITE)/jsonschema-*.tar.gz -C $(SUITE) --strip-components=2 --wildcards '*/json/tests/*'
	@rm $(SUITE)/jsonschema-*.tar.gz

# Types of what has changed since the last time; a tenth of the examples of property tests.
quick: setup $(SUITE)/tests
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@imports=$$($(BIN)/lint-imports --no-logo) || { echo "$$imports"; exit 1; }
	@test ! -w /dev/shm || export TMPDIR=/dev/shm; AINET_QUICK=1 $(BIN)/python -m pytest --quiet --numprocesses 3 --dist worksteal tests/unit -m unit

# Most tests wait for devices rather than for a processor, so there are more of them at once than processors.
test: lint $(YJS) $(SUITE)/tests
	@start=$$(date +%s); $(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0; status=$$?; \
		echo "== the tests took $$(( ($$(date +%s) - start) / 60 )) min $$(( ($$(date +%s) - start) % 60 )) s"; exit $$status

soak: setup
	AINET_SOAK=200 $(BIN)/python -m pytest --log-cli-level=INFO tests/e2e/test_soak.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# Nobody runs all benchmarks in a test: their types show what a change has broken.
	MYPYPATH=.:benchmarks:tests $(BIN)/mypy --disable-error-code misc --disable-error-code no-untyped-call benchmarks/*.py
	$(BIN)/lint-imports

# llama.cpp's own RPC backend, which benchmarks compare with. Not from pip's cache: that holds the build without it.
$(RPC)/.ready: constraints.txt
	@echo "== compiling llama.cpp with its RPC backend into $(RPC): about 8 minutes on 2 cores, once, without output"
	@$(PYTHON) -m venv $(RPC)
	@CMAKE_ARGS="-DGGML_RPC=ON $(CMAKE_ARGS)" $(RPC)/bin/python $(PIP) --no-cache-dir --no-binary llama-cpp-python llama-cpp-python numpy
	@touch $@

benchmark: setup $(SUITE)/tests
	-@$(MAKE) --no-print-directory $(RPC)/.ready
	@$(BIN)/python benchmarks/pipeline.py --rpc-python $(RPC)/bin/python
	@$(BIN)/python benchmarks/network.py
	@$(BIN)/python benchmarks/first_words.py
	@$(BIN)/python benchmarks/json_schemas.py
	@$(BIN)/python benchmarks/quantise.py
	@$(BIN)/python benchmarks/context.py

clean:
	rm -rf $(VENV) $(RPC) build dist demo-output tests/yjs/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
