# make predict: the runtime alone, and one prediction. make test: everything the tests need, and all of them.
# make soak: ten minutes of fuzzing and 50,000 reviews, which the tests leave out.
PYTHON ?= python3
RUNTIME := .venv-runtime
DEV := .venv

.PHONY: predict test soak lint typecheck emulators clean

predict: $(RUNTIME)/.installed
	$(RUNTIME)/bin/edge-imdb predict "great film"

# Two tests at a time, so PyTorch takes one thread for each.
test: lint typecheck emulators
	OMP_NUM_THREADS=1 $(DEV)/bin/python -m pytest -n 2 --dist loadgroup

soak: $(DEV)/.installed
	$(DEV)/bin/python -m pip install --quiet --disable-pip-version-check atheris
	$(DEV)/bin/python tests/soak/fuzz.py text --seconds 300
	$(DEV)/bin/python tests/soak/fuzz.py manifest --seconds 300
	$(DEV)/bin/python tests/soak/memory.py

# Other CPUs to run the runtime on. Where they can't be had, the tests that need them say so and skip.
emulators: $(DEV)/.installed
	tests/portability/get_emulators.sh .emulators $(DEV)/bin/python > .emulators.log 2>&1 \
		|| echo "no emulators of other CPUs: $$(tail -n 1 .emulators.log)"

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .

# The workshops stand at the top but are installed below edge_imdb; mypy reads them where imports look for them.
typecheck: $(DEV)/.installed
	rm -rf .typecheck && mkdir -p .typecheck/edge_imdb
	ln -s $(CURDIR)/edge_imdb/*.py .typecheck/edge_imdb/
	ln -s $(CURDIR)/train $(CURDIR)/export .typecheck/edge_imdb/
	cd .typecheck && ../$(DEV)/bin/python -m mypy --config-file ../pyproject.toml -p edge_imdb

$(RUNTIME)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RUNTIME)
	$(RUNTIME)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[cpu]'
	touch $@

$(DEV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(RUNTIME) $(DEV) .emulators .emulators.log .typecheck build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
