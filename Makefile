# Every command of the project, once. A fresh machine needs Python 3.11+, pip, git and make.
UV := .tools/bin/uv
BIN := .venv/bin
WORKERS ?= 2
.PHONY: demo test check fix docs bench bench-build bench-serving bench-many bench-pages bench-statistics lock pictures

demo: .venv/ready  ## play the whole path on real data: make demo ARGS=--once
	$(BIN)/penstock demo $(ARGS)

test: .venv/ready  ## all tests
	$(BIN)/pytest -q -n $(WORKERS) --dist worksteal $(ARGS)

check: .venv/ready  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

fix: .venv/ready  ## what the tools can mend by themselves
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/ready  ## the documentation, live
	$(BIN)/zensical serve

bench: .venv/ready  ## ratios in one run; writes bench/results
	$(BIN)/python -m bench $(ARGS)

bench-build: .venv/ready  ## what Penstock adds to a push of a real project, and its parts beside their peers
	$(BIN)/python -m bench build sandbox fairness explain

bench-serving: .venv/ready  ## serving beside its peers, 40 minutes; make bench-serving ARGS=--quick
	$(BIN)/python -m bench.serving $(ARGS)

bench-many: .venv/ready  ## a thousand models on this machine
	$(BIN)/python -m bench.serving.many $(ARGS)

bench-statistics: .venv/ready  ## how often gates and canaries are wrong, by simulation, 10 minutes
	$(BIN)/python -m bench.statistics $(ARGS)

bench-pages: .venv/ready  ## what pages cost with 10,000 models of 20 versions, 1 minute
	$(BIN)/python -m bench.pages

pictures: .venv/ready  ## the README's pictures, from a running demo
	$(BIN)/python docs/pictures.py

lock: $(UV)  ## resolve anew; requirements.lock is the only place of exact versions
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-index-url --all-extras --group dev pyproject.toml -o requirements.lock

.venv/ready: $(UV) pyproject.toml requirements.lock
	test -x $(BIN)/python || $(UV) venv --quiet --python 3.11 .venv || $(UV) venv --quiet .venv
	$(UV) pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --no-deps --python $(BIN)/python --editable .
	touch $@

$(UV):
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target .tools uv==0.13.9
