# make predict: the runtime alone, and one prediction. make test: everything the tests need, and all of them.
# make soak: what the tests leave out: ten minutes of fuzzing, a kill at every write, 50,000 reviews and 50,000 requests.
PYTHON ?= python3
# Two environments are built at a time, since installing takes one core.
MAKEFLAGS += --jobs=2
RUNTIME := .venv-runtime
DEV := .venv
# The wheel in an empty environment, with the newest and with the oldest versions that pyproject.toml promises.
WHEEL := .venv-wheel
OLDEST := .venv-oldest
RAY := .venv-ray
# The wheel on newer Pythons, of which those are tested that are on the PATH or that pyenv has.
python_of = $(shell { python$(1) -c 'import sys; print(sys.executable)' || ls $(HOME)/.pyenv/versions/$(1).*/bin/python; } 2> /dev/null | tail -n 1)
PYTHONS := $(foreach version,3.12 3.13,$(if $(call python_of,$(version)),.venv-$(version)))

# $(call install,ENVIRONMENT) PACKAGES: with uv if it is there, which is several times faster, else or if it fails with pip.
UV := $(shell command -v uv 2> /dev/null)
define install
@set -- $(2); \
	{ [ -n "$(UV)" ] && "$(UV)" pip install --quiet --python $(1)/bin/python "$$@" 2> /dev/null; } \
	|| $(1)/bin/python -m pip install --quiet --disable-pip-version-check "$$@"
endef

.PHONY: predict test soak lint typecheck emulators clients browser clean

predict: $(RUNTIME)/.installed
	$(RUNTIME)/bin/edge-imdb predict "great film"

# Two tests at a time, so PyTorch takes one thread for each.
test: lint typecheck emulators clients browser $(WHEEL)/.installed $(OLDEST)/.installed $(RAY)/.installed $(PYTHONS:=/.installed)
	OMP_NUM_THREADS=1 $(DEV)/bin/python -m pytest -n 2 --dist loadfile
	$(RAY)/bin/python -m pytest tests/test_score_ray.py tests/test_pickles.py::test_an_actor_of_ray_takes_a_model

soak: $(DEV)/.installed
	$(DEV)/bin/python -m pip install --quiet --disable-pip-version-check atheris
	$(DEV)/bin/python tests/soak/fuzz.py text --seconds 300
	$(DEV)/bin/python tests/soak/fuzz.py manifest --seconds 300
	EDGE_IMDB_SOAK=1 OMP_NUM_THREADS=1 $(DEV)/bin/python -m pytest -k kills tests/test_kills.py tests/test_score.py
	EDGE_IMDB_SOAK=1 $(DEV)/bin/python -m pytest tests/portability
	$(DEV)/bin/python tests/soak/memory.py
	$(DEV)/bin/python tests/soak/serve.py

# Other CPUs to run the runtime on. Where they can't be had, the tests that need them say so and skip.
emulators: $(DEV)/.installed
	tests/portability/get_emulators.sh .emulators $(DEV)/bin/python > .emulators.log 2>&1 \
		|| echo "no emulators of other CPUs: $$(tail -n 1 .emulators.log)"

# Clients of the server. Where they can't be had, the tests that need them say so and skip.
clients: $(DEV)/.installed | browser
	tests/get_clients.sh .clients $(DEV)/bin/python > .clients.log 2>&1 \
		|| echo "no clients of the server: $$(tail -n 1 .clients.log)"

# Chromium, Firefox, Node and npm packages for the tests of the page. Where they can't be had, those tests say so and skip.
browser:
	tests/browser/get_browser.sh .node > .browser.log 2>&1 || echo "no whole browser tests: $$(tail -n 1 .browser.log)"

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .

# train and export lie beside edge_imdb but are installed below it; mypy reads them where imports look for them.
typecheck: $(DEV)/.installed
	rm -rf .typecheck && mkdir -p .typecheck/edge_imdb
	ln -s $(wildcard $(CURDIR)/edge_imdb/*) .typecheck/edge_imdb/
	ln -s $(CURDIR)/train $(CURDIR)/export .typecheck/edge_imdb/
	ln -s $(CURDIR)/tests/typing/calls.py .typecheck/calls.py
	cd .typecheck && ../$(DEV)/bin/python -m mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p edge_imdb -m calls

$(RUNTIME)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RUNTIME)
	$(call install,$(RUNTIME),-c constraints.txt '.[cpu]')
	touch $@

# With pip always: uv would ignore a CPU build of PyTorch that pip is set up to prefer, and fetch gigabytes of CUDA.
$(DEV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# From a copy, because the editable installs write to build/ and *.egg-info at the same time.
SOURCE := pyproject.toml README.md LICENSE $(shell git ls-files edge_imdb train export)
build/wheel/.built: $(SOURCE)
	rm -rf build/source build/wheel && mkdir -p build/source build/wheel
	@tar cf - $(SOURCE) | tar xf - -C build/source
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel ./build/source
	rm -rf build/source && touch $@

$(WHEEL)/.installed: build/wheel/.built constraints.txt
	rm -rf $(WHEEL) && $(PYTHON) -m venv $(WHEEL)
	$(call install,$(WHEEL),-c constraints.txt "$$(echo build/wheel/*.whl)[cpu]")
	touch $@

$(PYTHONS:=/.installed): .venv-%/.installed: build/wheel/.built
	rm -rf .venv-$* && $(call python_of,$*) -m venv .venv-$*
	$(call install,.venv-$*,"$$(echo build/wheel/*.whl)[cpu]")
	touch $@

$(OLDEST)/.installed: build/wheel/.built
	rm -rf $(OLDEST) && $(PYTHON) -m venv $(OLDEST)
	$(call install,$(OLDEST),"$$(echo build/wheel/*.whl)[cpu]" 'numpy==1.26.*' 'tokenizers==0.20.*' 'click==8.2.*' 'onnxruntime==1.19.*')
	touch $@

# After the other editable install, for both write to the same *.egg-info.
$(RAY)/.installed: pyproject.toml constraints-ray.txt | $(DEV)/.installed
	$(PYTHON) -m venv $(RAY)
	$(call install,$(RAY),-c constraints-ray.txt -e '.[ray-test]')
	touch $@

clean:
	rm -rf $(RUNTIME) $(DEV) $(RAY) $(WHEEL) $(OLDEST) $(PYTHONS) .emulators .emulators.log .clients .clients.log .node .browser.log .typecheck build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
