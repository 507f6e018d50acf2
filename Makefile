# make setup | quickstart | test | coverage | lint | docs
PYTHON ?= python3
VENV ?= .venv
WORK ?= work_dirs/quickstart
PY := $(VENV)/bin/python
PIP := $(VENV)/bin/pip --disable-pip-version-check

.PHONY: setup quickstart test coverage lint docs clean

setup: $(VENV)/.ready

# onedl-mmcv without pip's cache: the cache may hold a wheel that was compiled against another torch.
$(VENV)/.ready: setup.py constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed' if sys.version_info < (3, 11) else 0)"
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q --upgrade pip
	$(PIP) install -q -c constraints.txt torch torchvision
	$(PIP) install -q --no-cache-dir -c constraints.txt onedl-mmcv
	$(PIP) install -q -c constraints.txt -e ".[test]"
	$(PY) tools/doctor.py
	touch $@

quickstart: setup
	$(PY) tools/quickstart.py --work-dir $(WORK)

# one process per core, of one thread each: small tensors gain nothing from more; nothing is asked of the hub
test: setup
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m pytest -n auto --maxprocesses 8 --dist loadfile

coverage: setup
	$(PY) -m pytest --cov --cov-report=term

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# the site, in build/site; --strict: a dead link or a missing docstring is an error
docs: setup
	$(VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) build *.egg-info
