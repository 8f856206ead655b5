# make demo   see it work, no bucket needed
# make test   everything that must hold
# Nothing here needs preparation: missing system packages are installed first (scripts/install-deps).

# Outside the checkout, so that a fresh clone does not build RocksDB again (ten minutes on two cores).
CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/forebay
export CARGO_TARGET_DIR ?= $(CACHE)/target
BIN := $(CARGO_TARGET_DIR)/release
# One profile for everything: a second one would build RocksDB a second time.
CARGO := cargo
PROFILE := --release --locked

.PHONY: help demo test manifests build bench bench-quick scale fleet operator-scale chaos simulate test-clouds csi-sanity fmt lint deny fix deps

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

deps:
	@scripts/install-deps

build: deps
	$(CARGO) build $(PROFILE) --bins

demo: build
	$(BIN)/forebay-demo

test: deps fmt lint deny build
	FOREBAY_BIN=$(BIN)/forebay $(CARGO) test $(PROFILE) --workspace
	@if command -v kubectl >/dev/null && [ -x $(CACHE)/tools/bin/helm ]; then $(MAKE) manifests; \
	else echo "not tested: manifests and Helm chart (make manifests: needs kubectl and go)"; fi

# Manifests, examples and Helm chart: they build, and the chart says what the manifests say. After a change: scripts/chart.
manifests: deps
	scripts/install-helm $(CACHE)/tools
	PATH="$(CACHE)/tools/bin:$$PATH" $(CARGO) test $(PROFILE) --workspace --test it manifests:: -- --ignored

# The operator against a real API server without nodes, then all parts on a real Kubernetes cluster of this machine:
# make e2e NODES=3. Needs root, Go and kubectl; the first time takes a quarter of an hour more, to build Kubernetes and MinIO. On the cluster of KUBECONFIG: make e2e E2E=--existing.
NODES ?= 2
E2E ?=
e2e: build manifests
	scripts/install-kubernetes
	FOREBAY_BIN=$(BIN)/forebay KUBERNETES_BIN=$(CACHE)/kubernetes \
		$(CARGO) test $(PROFILE) --workspace --test it -- --ignored --test-threads=1 story:: locality::
	$(BIN)/forebay-e2e --nodes $(NODES) $(E2E)

# Against a native directory on the same disk; DIR must be on it (default: beside the target directory).
bench: build
	$(BIN)/forebay-bench

bench-quick: build
	$(BIN)/forebay-bench --quick

# The metadata of very many files: make scale FILES=100000000 (a quarter to half an hour; wants 25 GB free, ends with 5).
FILES ?= 1000000
scale: build
	$(BIN)/forebay-scale --files $(FILES)

# Three masters as processes, killed and stopped under clients: make chaos ROUNDS=10.
ROUNDS ?= 100
chaos: build
	$(BIN)/forebay-chaos --rounds $(ROUNDS)

# Simulated workers and clients against real masters: make fleet WORKERS=5000 CLIENTS=5000 (wants 12 GB of memory and
# 16,000 open files).
WORKERS ?= 500
CLIENTS ?= 500
MASTERS ?= 1
fleet: build
	$(BIN)/forebay-fleet --workers $(WORKERS) --clients $(CLIENTS) --masters $(MASTERS)

# The operator under very many nodes, all but one fake (kwok), and very many Datasets, on a throw-away cluster as of make e2e:
# make operator-scale NODES=1000 DATASETS=2000 (a quarter of an hour), or NODES=20 DATASETS=50 REST=30 for a try.
operator-scale: NODES = 1000
DATASETS ?= 2000
REST ?= 300
operator-scale: build
	scripts/install-kubernetes
	scripts/install-kwok $(CACHE)/kubernetes
	$(BIN)/forebay-operator-scale --nodes $(NODES) --datasets $(DATASETS) --rest $(REST)

# The under stores of Azure and GCS against emulators. The key is the published one of Azurite.
test-clouds: deps
	scripts/install-emulators $(CACHE)/tools
	PATH="$(CACHE)/tools/bin:$(CACHE)/tools/azurite/node_modules/.bin:$$PATH" \
	AZURE_STORAGE_ACCOUNT_KEY=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw== \
	$(CARGO) test $(PROFILE) --workspace --test clouds -- --ignored

# The CSI driver under the conformance suite of CSI.
csi-sanity:
	scripts/install-csi-sanity $(CACHE)/tools
	PATH="$(CACHE)/tools/bin:$$PATH" \
	$(CARGO) test $(PROFILE) -p forebay-csi --test node -- --ignored --exact sanity::the_suite_passes --nocapture

# Clusters under simulated faults (docs/simulation.md): SEEDS=n seeds, FROM=n on, on all cores; or one SEED=n, told step
# by step, under its own SCHEDULE or the one given.
simulate: deps
	$(CARGO) test $(PROFILE) --workspace --lib sim::tests::simulate -- --ignored --exact --nocapture

fmt:
	$(CARGO) fmt --all --check

lint: deps
	$(CARGO) clippy $(PROFILE) --workspace --all-targets -- -D warnings

# Which crate may depend on what, licences, sources (deny.toml).
deny: $(CACHE)/tools/bin/cargo-deny
	$< --all-features check --hide-inclusion-graph bans licenses sources

$(CACHE)/tools/bin/cargo-deny:
	CARGO_TARGET_DIR=$(CACHE)/tools/target $(CARGO) install --locked --root $(CACHE)/tools --version 0.20.2 cargo-deny

fix:
	$(CARGO) fmt --all
	$(CARGO) clippy $(PROFILE) --workspace --all-targets --fix --allow-dirty
