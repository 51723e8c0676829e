# Every target sets up what it needs. All that has to be there: python3 (3.11 to 3.14), make and git.

UV := .uv/bin/uv
READY := .venv/.ready
DOCS_READY := .venv-docs/.ready
BENCH_READY := .venv-bench/.ready
RUNNERS_READY := .venv-runners/.ready
BENCH := .venv-bench/bin/python
PROMPT := A futuristic city at sunset

# Without compiled bytecode `import prefect` takes 10 s instead of 2.
export PYTHONDONTWRITEBYTECODE :=
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
export NO_MKDOCS_2_WARNING := 1
unexport VIRTUAL_ENV

.PHONY: help demo test test-media test-takes test-moto test-examples test-long test-processes test-runners test-wheel test-live test-pythons test-lowest test-crash test-protocol test-workers test-postgres test-ui screenshots bench bench-saving bench-links bench-waiting bench-overhead bench-scale bench-start bench-collector bench-preview bench-lost-reply bench-nights lint types format docs docs-serve clean

help: ## Show what there is (this)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## Make a video on this machine: a simulated Loova, an embedded S3 server, no account
	@.venv/bin/prefect-loova generate "$(PROMPT)" --simulate

test: $(READY) ## Run the tests, except the long ones, which have targets of their own; ARGS="-k name" chooses some
	@.venv/bin/pytest -n 4 --dist loadgroup --ignore=tests/benchmarks $(ARGS)

test-media: $(READY) ## Reference media, pictures and films: decoded, converted, joined (2 minutes)
	@.venv/bin/pytest -n 4 --dist loadgroup -m media --ignore=tests/benchmarks $(ARGS)

test-takes: $(READY) ## Takes, reviews, quality gates and publishing, in batches and stories (3 minutes)
	@.venv/bin/pytest -n 4 --dist loadgroup -m "takes and not moto" --ignore=tests/benchmarks $(ARGS)

test-moto: $(READY) ## The tests of the jobs again, on another S3 server (2 minutes)
	@.venv/bin/pytest -n 4 --dist loadgroup -m moto tests/integration/jobs $(ARGS)

test-examples: $(READY) ## What the README, the guides and the docstrings show, run as it is (2 minutes)
	@.venv/bin/pytest -n 4 --dist loadgroup -m examples --ignore=tests/benchmarks $(ARGS)

test-long: $(READY) ## The four above in one run, which takes less time than one after the other
	@.venv/bin/pytest -n 4 --dist loadgroup -m "media or takes or moto or examples" --ignore=tests/benchmarks $(ARGS)

test-processes: $(READY) ## Commands and flow runs in processes of their own: killed, interrupted, as the docs show them (5 minutes)
	@.venv/bin/pytest -n 3 --dist loadfile -m processes tests/integration tests/crash $(ARGS)

test-runners: $(RUNNERS_READY) ## A batch on threads, Dask and Ray, and a Jupyter notebook, in an environment of its own (2 minutes)
	@.venv-runners/bin/pytest -m runners tests/integration/test_runners.py $(ARGS)

test-wheel: $(READY) ## Build the wheel, check it, install it with pip, and use it in an empty home
	@.venv/bin/pytest -m wheel tests/integration/test_wheel.py $(ARGS)

test-live: $(READY) ## What the package assumes about Loova, on the real API: asks before it buys a video of 4 s; LOOVA_API_KEY=...
	@.venv/bin/python -m tests.live $(ARGS)

test-crash: $(READY) ## A fault at every request, 2,000 random schedules, races (40 minutes); CRASH_SEED=n
	@CRASH_EVERYTHING=1 .venv/bin/pytest -s -m "" tests/crash $(ARGS)

test-protocol: $(READY) ## The record protocol in every order of its requests, with faults (an hour, on one core)
	@CRASH_EVERYTHING=1 .venv/bin/pytest -s -n 0 tests/unit/jobs/test_protocol_exhaustive.py $(ARGS)

test-pythons: $(UV) ## Unit and contract tests, and flows, on other Pythons that are installed; PYTHONS="3.12 /path/to/python3.13"
	@for version in $(or $(PYTHONS),3.12 3.13); do \
	  UV_PROJECT_ENVIRONMENT=.venv-python $(UV) sync --locked --quiet --python $$version || exit 1; \
	  .venv-python/bin/pytest -n 4 --dist loadgroup -m "not moto and not processes" tests/unit tests/contract tests/integration/test_flow.py \
	    tests/integration/test_sync.py $(ARGS) || exit 1; \
	done

test-lowest: $(UV) ## Unit and contract tests, and flows, on the lowest versions that pyproject.toml allows (Prefect 3.8.0)
	@$(UV) venv --quiet --clear .venv-lowest
	@$(UV) pip compile --quiet --resolution lowest-direct --extra simulator -c tests/lowest-constraints.txt \
	  --python .venv-lowest/bin/python pyproject.toml -o .venv-lowest/lowest.txt
	@VIRTUAL_ENV=.venv-lowest $(UV) pip install --quiet -c .venv-lowest/lowest.txt -e ".[simulator]" --group dev
	@.venv-lowest/bin/pytest -n 4 --dist loadgroup -m "not moto and not processes" tests/unit tests/contract tests/integration/test_flow.py $(ARGS)

test-workers: $(READY) ## Two workers at the deployments, one killed with -9; a story's command as well (minutes)
	@.venv/bin/pytest -s -m workers tests/integration/test_workers.py tests/integration/test_init.py tests/integration/test_storyboard.py $(ARGS)

test-postgres: $(READY) ## The same with the Prefect server on PostgreSQL (apt install postgresql)
	@TEST_ON_POSTGRES=1 .venv/bin/pytest -s -m workers tests/integration/test_workers.py $(ARGS)

test-ui: $(READY) ## What a person sees in both Prefect UIs, in Chromium (apt install chromium)
	@.venv/bin/pytest -s -m ui tests/ui $(ARGS)

screenshots: $(READY) ## The pictures of the docs: the demo, a batch of 12, a collection, a review
	@.venv/bin/python -m tests.ui.screenshots docs/images

bench: bench-start bench-waiting bench-saving bench-links bench-overhead bench-scale bench-preview bench-lost-reply bench-nights ## All benchmarks, one after the other (hours); .bench/*.json

bench-saving: $(BENCH_READY) ## A video from its URL into S3: ours against aws s3 cp, smart_open and others; ARGS="--mib 64"
	@$(BENCH) tests/benchmarks/saving.py $(ARGS)

bench-links: $(BENCH_READY) ## The same over links of 1 to 80 ms and 10 to 200 MB/s, on both sides (8 minutes); ARGS="--everything"
	@$(BENCH) tests/benchmarks/links.py $(ARGS)

bench-waiting: $(BENCH_READY) ## Polls and lag over generations of 30 s to 3 h, on a virtual clock, ours and the SDKs'
	@$(BENCH) tests/benchmarks/waiting.py $(ARGS)

bench-overhead: $(BENCH_READY) ## What a video costs beside its generation, against a plain script and a plain Prefect flow; ARGS="--requests 50"
	@$(BENCH) tests/benchmarks/overhead.py $(ARGS)

bench-scale: $(BENCH_READY) ## Time, memory and API calls by video, from 1 to 10,000 of them; ARGS="--most 1000"
	@$(BENCH) tests/benchmarks/scale.py $(ARGS)

bench-start: $(BENCH_READY) ## Importing the package over importing Prefect, and a deployed run's first submit
	@$(BENCH) tests/benchmarks/start.py $(ARGS)

bench-collector: $(READY) ## A queue worked off by a collector, a pass a minute of the simulated clock; ARGS="--jobs 10000"
	@.venv/bin/python tests/benchmarks/collector.py $(ARGS)

bench-preview: $(BENCH_READY) ## The previews of a 15 s 1080p video: seconds, memory, bytes; ARGS="--ffmpeg PATH" for a comparison
	@$(BENCH) tests/benchmarks/preview.py $(ARGS)

bench-lost-reply: $(READY) ## Lose the answer to a paid POST: ours, and seven packages from PyPI in environments of their own
	@.venv/bin/python tests/benchmarks/lost_reply.py $(ARGS)

bench-nights: $(READY) ## Whole nights: a detached batch, collectors on two workers, kills (3 hours); ARGS="--rows 1000 --limit 6 --kill-each 100"
	@.venv/bin/python tests/benchmarks/nights.py $(ARGS)

lint: $(READY) ## Check style, layout, and that imports point down
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports --no-cache

types: $(READY) ## Check types
	@.venv/bin/mypy

format: $(READY) ## Put style and layout right
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

docs: $(DOCS_READY) ## Build the documentation from docs/ and the docstrings into site/
	@.venv-docs/bin/mkdocs build --strict
	@if grep -rnE --include='*.html' '<(script|link|img|iframe)[^>]*(src|href)="?(https?:)?//' site; then \
	  echo "The pages above load something from the network." >&2; exit 1; fi
	@echo "The documentation is in site/index.html. (Its search needs a server: make docs-serve.)"

docs-serve: $(DOCS_READY) ## Serve it on http://127.0.0.1:8000, built anew with each change
	@.venv-docs/bin/mkdocs serve --strict --dev-addr 127.0.0.1:8000 --watch prefect_loova

clean: ## Remove all that make made, the simulated videos too
	@rm -rf .venv .venv-docs .venv-bench .venv-runners .venv-python .venv-lowest .uv site .bench .mypy_cache .pytest_cache .ruff_cache .hypothesis .loova-simulated dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml uv.lock $(UV)
	@echo "Setting up .venv from uv.lock; the first time takes a minute or two."
	@$(UV) sync --locked --quiet
	@touch $@

$(BENCH_READY): pyproject.toml uv.lock $(UV)
	@echo "Setting up .venv-bench from uv.lock."
	@UV_PROJECT_ENVIRONMENT=.venv-bench $(UV) sync --locked --quiet --group bench
	@touch $@

$(RUNNERS_READY): pyproject.toml uv.lock $(UV)
	@echo "Setting up .venv-runners from uv.lock."
	@UV_PROJECT_ENVIRONMENT=.venv-runners $(UV) sync --locked --quiet --group runners
	@touch $@

$(DOCS_READY): pyproject.toml uv.lock $(UV)
	@echo "Setting up .venv-docs from uv.lock."
	@UV_PROJECT_ENVIRONMENT=.venv-docs $(UV) sync --locked --quiet --only-group docs
	@touch $@

# The first Python that fits: one that exists, starts, and is 3.11 to 3.14.
$(UV):
	@for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	  $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null || continue; \
	  $$python -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo "$$python lacks venv: install it (Debian, Ubuntu: apt install python3-venv), then run make again." >&2; exit 1; }; \
	  $$python -m venv --clear .uv && .uv/bin/pip install -qq --disable-pip-version-check "uv>=0.9" || { rm -rf .uv; exit 1; }; \
	  exit 0; \
	done; \
	echo "Python 3.11 to 3.14 is needed, and none of python3.14 to python3.11 and python3 is one." >&2; exit 1
