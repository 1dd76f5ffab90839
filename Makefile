# Everything runs in .venv, which the first target that needs it builds from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
ENV := .venv/.stamp
# Worker processes of pytest: each holds its own copy of torch (about 1 GB).
WORKERS ?= 2
# Python keeps what it compiles: hundreds of processes would compile torch and Rung once more each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env user lint format test test-quick test-faults quickstart bench-train bench-align bench-eval \
	bench-features bench-vision bench-combine bench-map bench-synth bench-documents bench-before bench-agents \
	bench-climb-tasks bench-plan bench-redteam bench-distributed bench-simulate bench-routing sweep harness-server \
	soak fuzz steady bench-clients bench-adapters bench-serve bench-llamacpp bench-exports clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(ENV)  ## build .venv with the pinned versions
	@:

# constraints.txt pins pip itself: older ones do not know --group. Most modules are never imported, and
# compiling them all takes pip longer than the rest: Python compiles those that are.
$(ENV): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt pip
	@$(BIN)/python -m pip install -qq --no-compile -c constraints.txt -e '.[documents,hub,page,pictures,quantize,remote,tensorboard]' --group dev
	@touch $@

# Where Python may not keep what it compiles (as in many containers), pip compiles all.
user: constraints.txt  ## build .venv for a user: rung with its page and the Hub, nothing for developers
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile) --disable-pip-version-check \
		-c constraints.txt '.[hub,page]'

lint: $(ENV)  ## style, types, declared dependencies and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@report=$$($(BIN)/deptry rung 2>&1) || { echo "$$report"; exit 1; }
	@$(BIN)/python -m tests.circles
	@report=$$($(BIN)/lint-imports --no-logo) || { echo "$$report"; exit 1; }

format: $(ENV)  ## rewrite the code in the project's style
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

test: $(ENV)  ## every test but the slow ones and those for a GPU
	@$(BIN)/pytest -m "not slow and not gpu" -n $(WORKERS) --dist loadfile

# Folders whose tests compute little; `make test` runs the others too.
QUICK := tests/test_config.py tests/test_registry.py tests/test_project.py tests/data tests/store tests/exports \
	tests/objectives tests/evals/test_metrics.py tests/evals/test_tasks.py tests/evals/test_intervals.py \
	tests/forward/test_trie.py tests/forward/test_loss.py tests/ladder/test_verdict.py tests/ladder/test_bar.py \
	tests/engine/test_scheduler.py tests/engine/test_wait_queue.py tests/engine/test_kv_cache.py \
	tests/engine/test_prefix_cache.py tests/engine/test_stop_strings.py tests/server/test_parameters.py

test-quick: $(ENV)  ## the tests that compute little, in under a minute
	@$(BIN)/pytest -m "not slow and not gpu and not wheel and not faults" -n $(WORKERS) --dist loadfile $(QUICK)

test-faults: $(ENV)  ## faults injected into real processes, the slow ones too
	@$(BIN)/pytest -m "faults and not gpu"

quickstart: $(ENV)  ## the README's first steps, for real
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/quickstart.sh

bench-train: $(ENV) bench/.peers/.stamp  ## training speed beside TRL and PEFT
	@$(BIN)/python -m bench.train $(ARGS)

bench-align: $(ENV) bench/.peers/.stamp  ## preferences and rewards beside TRL: DPO, reward models, GRPO
	@$(BIN)/python -m bench.align $(ARGS)
	@$(BIN)/python -m bench.align_grpo

bench-eval: $(ENV) bench/.peers/.stamp  ## evaluation beside lm-evaluation-harness
	@$(BIN)/python -m bench.eval $(ARGS)

bench-features: $(ENV) bench/.peers/.stamp  ## training on kept states beside transformers' Trainer; a climb beside its rungs
	@$(BIN)/python -m bench.features $(ARGS)
	@$(BIN)/python -m bench.climb $(CLIMB_ARGS)

bench-vision: $(ENV)  ## pictures: a probe and the last layers beside transformers' Trainer: ARGS="--epochs 1 --each 6"
	@$(BIN)/python -m bench.vision $(ARGS)

bench-combine: $(ENV)  ## what a projector and towers learn of 1,412 drawings: ARGS="--rows 60 --epochs 1"
	@$(BIN)/python -m bench.combine $(ARGS)

bench-climb-tasks: $(ENV)  ## climbs on eight real tasks beside TF-IDF, SetFit, AutoGluon: ARGS="--tasks laws --budgets 1"
	@$(BIN)/python -m bench.climb_tasks $(ARGS)

bench-plan: $(ENV)  ## what rung plan says beside what then happens, on nine rungs: ARGS="--burn"
	@$(BIN)/python -m bench.plan $(ARGS)

bench-redteam: $(ENV)  ## red team on a package's attacks, before and after mending: ARGS="--budget 2m"
	@$(BIN)/python -m bench.redteam_real $(ARGS)

bench-map: $(ENV)  ## mapping real names: rungs beside edit distance, and 10,000 x 10,000 records
	@$(BIN)/python -m bench.mapping $(ARGS)

bench-synth: $(ENV) bench/.peers/.stamp  ## rows written as constrained JSON beside transformers with outlines
	@$(BIN)/python -m bench.synth $(ARGS)

bench-documents: $(ENV)  ## questions of documents: retrieval, and a tuned model beside one that retrieves
	@$(BIN)/python -m bench.documents $(ARGS)

bench-agents: $(ENV)  ## an agent with a calculator beside the rungs around it, by one climb
	@$(BIN)/python -m bench.agents $(ARGS)

bench-distributed: $(ENV)  ## training on several processes: what the launcher costs, what sharding saves
	@$(BIN)/python -m bench.distributed $(ARGS)

bench-simulate: $(ENV)  ## requests routed to replicas by simulation: warm adapters beside random and least-loaded
	@$(BIN)/python -m bench.simulate $(ARGS)

bench-routing: $(ENV)  ## prompt tokens that two real replicas need not recompute: warm routing beside random
	@$(BIN)/python -m bench.routing $(ARGS)

bench-before: $(ENV)  ## Rung's own speeds beside another checkout: ARGS="../before"
	@$(BIN)/python -m bench.before $(ARGS)

harness-server: $(ENV) bench/.peers/.stamp  ## lm-evaluation-harness through the server and without it
	@$(BIN)/python -m bench.harness_server $(ARGS)

sweep: $(ENV)  ## every architecture and every kind of adapter, on tiny models
	@$(BIN)/python -m bench.sweep $(ARGS)

soak: $(ENV)  ## ten minutes of clients that misbehave
	@$(BIN)/python -m bench.soak $(ARGS)

fuzz: $(ENV)  ## random requests to every address: no 5xx, no traceback, no place on this machine
	@$(BIN)/python -m bench.fuzz $(ARGS)

steady: $(ENV)  ## 200 clients for ten minutes: memory by minute, p99
	@$(BIN)/python -m bench.steady $(ARGS)

bench-clients: $(ENV)  ## other people's clients against rung serve: CLIENTS="langchain vercel"
	@PATH="$(CURDIR)/$(BIN):$$PATH" bench/clients/run.sh $(CLIENTS)

bench-adapters: $(ENV) bench/.peers/.stamp  ## six adapters by TRL's and PEFT's trainers, served and asked
	@$(BIN)/python -m bench.others_adapters $(ARGS)

bench-serve: $(ENV) bench/.peers/.stamp bench/.vllm/.stamp  ## serving beside vLLM and PEFT
	@$(BIN)/python -m bench.serve $(ARGS)

bench-llamacpp: $(ENV) bench/.llamacpp/.stamp  ## serving on a CPU beside llama.cpp: ARGS="--only int8 --before ../before"
	@$(BIN)/python -m bench.llamacpp $(ARGS)

bench-exports: $(ENV) bench/.llamacpp/.stamp  ## exports run by llama.cpp, method by method: ARGS="--only lora"
	@$(BIN)/python -m bench.exports $(ARGS)

# The peers live apart, so that they never decide which versions Rung runs on.
bench/.peers/.stamp: bench/peers.txt constraints.txt
	@test -x bench/.peers/bin/python || $(PYTHON) -m venv bench/.peers
	@bench/.peers/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt pip
	@bench/.peers/bin/python -m pip install -qq -r bench/peers.txt
	@touch $@

bench/.peers-text/.stamp: bench/peers-text.txt constraints.txt
	@test -x bench/.peers-text/bin/python || $(PYTHON) -m venv bench/.peers-text
	@bench/.peers-text/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt pip
	@bench/.peers-text/bin/python -m pip install -qq -r bench/peers-text.txt
	@touch $@

bench/.vllm/.stamp: bench/peers-serve.txt constraints.txt
	@test -x bench/.vllm/bin/python || $(PYTHON) -m venv bench/.vllm
	@bench/.vllm/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt pip
	@bench/.vllm/bin/python -m pip install -qq --no-deps -r bench/peers-serve.txt
	@touch $@

bench/.llamacpp/.stamp:
	@mkdir -p bench/.llamacpp
	@npm install --silent --no-save --ignore-scripts --prefix bench/.llamacpp @node-llama-cpp/linux-x64@3.22.1
	@touch $@

clean:  ## remove what the targets made, the environments too
	@rm -rf .venv bench/.peers bench/.peers-text bench/.vllm bench/.llamacpp build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
