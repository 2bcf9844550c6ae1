# Everything runs in a virtual environment that these targets make; nothing else is set up by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast test-slow test-oldest test-newest test-ray lint types clean

demo: $(VENV)/.installed
	$(BIN)/instantid demo --output out/demo.png

# Compiling is most of what these tests do, so LLVM's optimizations are left out; slow tests run
# with them, as users do.
test: $(VENV)/.installed-test
	JAX_DISABLE_MOST_OPTIMIZATIONS=true $(BIN)/python -m pytest -n 2 --dist loadfile --durations 10

# Tests on the host: no network is compiled in these.
FAST := tests/diffusion tests/face tests/request tests/weights $(addprefix tests/test_, \
	atomic.py components.py english.py layers.py params.py images.py prompt.py sharding.py)

test-fast: lint
	JAX_DISABLE_MOST_OPTIMIZATIONS=true $(BIN)/python -m pytest -n 2 --dist loadfile $(FAST)

test-slow: $(VENV)/.installed-test $(VENV)/libtpu
	$(BIN)/python -m pytest -m slow

# The oldest and the newest versions that pyproject.toml allows, each in an environment of its own,
# with tests of what uses each package. PyTorch is not needed.
VERSIONED := tests/cli/test_embed.py tests/cli/test_embedded_default.py tests/cli/test_names.py \
	$(addprefix tests/models/test_,clip.py controlnet.py resampler.py unet.py vae.py) \
	tests/test_prompt.py tests/test_sharding.py tests/weights/test_hub.py \
	$(addprefix tests/train/data/test_,batches.py build.py latents.py sidecars.py) \
	tests/train/prepare/test_prepare.py tests/train/runs/test_checkpoints.py \
	tests/train/test_options.py tests/train/test_overfit.py
TOOLS := pytest pytest-xdist hypothesis pillow-heif
# Has the newest JAX; older Pythons get older ones.
NEWEST_PYTHON ?= python3.12

test-oldest:
	$(PYTHON) -m venv --clear $(VENV)-oldest
	$(VENV)-oldest/bin/pip install --quiet uv
	$(VENV)-oldest/bin/uv pip install --quiet --python $(VENV)-oldest/bin/python \
		--resolution lowest-direct -e '.[train]'
	$(VENV)-oldest/bin/pip install --quiet $(TOOLS)
	JAX_DISABLE_MOST_OPTIMIZATIONS=true $(VENV)-oldest/bin/python -m pytest -n 2 $(VERSIONED)

test-newest:
	$(NEWEST_PYTHON) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/pip install --quiet -e '.[train]' $(TOOLS)
	JAX_DISABLE_MOST_OPTIMIZATIONS=true $(VENV)-newest/bin/python -m pytest -n 2 $(VERSIONED)

# Ray's protobuf does not fit the other packages of the tests.
test-ray:
	$(PYTHON) -m venv --clear $(VENV)-ray
	$(VENV)-ray/bin/pip install --quiet -e '.[ray]' httpx openai pytest pyyaml
	RAY_USAGE_STATS_ENABLED=0 $(VENV)-ray/bin/python -m pytest -m 'slow or not slow' tests/serving/ray

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tests.english
	$(MAKE) types

types: $(VENV)/.installed-test
	$(BIN)/basedpyright --pythonpath $(BIN)/python --level error

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet -e '.[test]'
	touch $@ $(VENV)/.installed

# Compiles for TPUs without one. Not in the environment itself, where JAX would look for a TPU and
# complain before every command. It exists for Linux on x86_64 only.
$(VENV)/libtpu: $(VENV)/bin/python
	$(BIN)/pip install --quiet --no-deps --target $@ \
		"libtpu==0.0.42.*; sys_platform == 'linux' and platform_machine == 'x86_64'"
	mkdir -p $@

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest $(VENV)-ray out
