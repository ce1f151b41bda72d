# make avatar [VIDEO=me.mp4]   set everything up and make an avatar (of the bundled sample, or of a clip)
# make test                    set everything up and test
# make wheel                   one wheel in dist/, for machines with and without an NVIDIA GPU
# make cuda                    compile the CUDA library for every architecture, into build/cuda
# make web                     build the web page of exports anew, with node (20 or newer)
.PHONY: avatar test test-slow bench wheel cuda web venv lint clean help

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.set-up
OUT    ?= out
PRESET ?= draft
VIDEO  ?=

help:
	@sed -n '1,5p' Makefile | cut -c3-

# torch first and by its exact version: this one resolves to the CPU build where one is offered, and
# with it in place no other package pulls in a CUDA build of several gigabytes.
$(STAMP): pyproject.toml CMakeLists.txt $(wildcard cuda_ext/src/* cuda_ext/include/* cuda_ext/cuda/*)
	@command -v $(PYTHON) >/dev/null || { echo "python3 (3.10 or newer) is missing: apt-get install python3 python3-venv"; exit 1; }
	@command -v g++ >/dev/null || { echo "g++ is missing: apt-get install g++"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=23.2"
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable ".[speech,dev]"
	touch $(STAMP)

venv: $(STAMP)

$(OUT)/sample.mp4: | $(STAMP)
	@mkdir -p $(@D)
	$(BIN)/avatar sample -o $@

ifeq ($(VIDEO),)
avatar: $(STAMP) $(OUT)/sample.mp4
	$(BIN)/avatar create $(OUT)/sample.mp4 -o $(OUT)/sample --preset $(PRESET)
else
avatar: $(STAMP)
	$(BIN)/avatar create "$(VIDEO)" -o "$(OUT)/$(basename $(notdir $(VIDEO)))" --preset $(PRESET)
endif

# Two workers, and a file's tests together on one of them: they share captures and fits.
test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

bench: $(STAMP)
	$(BIN)/avatar bench rasterizer

# A build folder of its own: the editable install must not inherit its settings.
wheel: $(STAMP)
	@if command -v nvcc >/dev/null; then cuda=ON; else cuda=OFF; \
	  echo "nvcc is missing, so this wheel has no CUDA kernels; install the CUDA toolkit to have them."; fi; \
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist --config-settings build-dir=build/wheel \
	  --config-settings cmake.define.HEADSPLAT_CUDA=$$cuda .
	@ls -l dist/headsplat-*.whl

# A GPU user needs the driver alone, and nothing of ours may get in another library's way.
CUDA_LIBRARY := build/cuda/libheadsplat_cuda.so
cuda:
	@command -v cmake >/dev/null || { echo "cmake is missing: apt-get install cmake"; exit 1; }
	cmake -S . -B build/cuda -DHEADSPLAT_CUDA=ON -DCMAKE_BUILD_TYPE=Release
	cmake --build build/cuda --target headsplat_cuda --parallel 1
	@! ldd $(CUDA_LIBRARY) | grep libcuda || { echo "$(CUDA_LIBRARY) must not need libcuda or libcudart"; exit 1; }
	@! nm -D --defined-only $(CUDA_LIBRARY) | grep -v ' hs_cuda_' || { echo "$(CUDA_LIBRARY) must export hs_cuda_* alone"; exit 1; }

# What it builds is part of the repository, so that only who changes the page needs node.
web:
	@command -v npm >/dev/null || { echo "npm is missing: install node 20 or newer"; exit 1; }
	cd viewer/web && npm install --no-save --no-audit --no-fund && npm run --silent check && npm run --silent build

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf build dist $(OUT) .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
