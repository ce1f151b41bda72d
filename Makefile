# make avatar [VIDEO=me.mp4]   set everything up and make an avatar (of the bundled sample, or of a clip)
# make test                    set everything up and test
.PHONY: avatar test test-slow bench venv lint clean help

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.set-up
OUT    ?= out
PRESET ?= draft
VIDEO  ?=

help:
	@sed -n '1,3p' Makefile | cut -c3-

# torch first and by its exact version: this one resolves to the CPU build where one is offered, and
# with it in place no other package pulls in a CUDA build of several gigabytes.
$(STAMP): pyproject.toml CMakeLists.txt $(wildcard cuda_ext/src/* cuda_ext/include/*)
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

test: $(STAMP)
	$(BIN)/python -m pytest -q

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

bench: $(STAMP)
	$(BIN)/avatar bench rasterizer

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf build $(OUT) .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
