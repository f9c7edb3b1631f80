# Slipway. Everything a fresh machine needs: `make demo` and `make test`. `make test` installs what is missing when run as root on
# Debian, and names plainly what it leaves out otherwise.

export CGO_ENABLED ?= 0
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.0.0)
LDFLAGS := -s -w -X main.version=$(VERSION)
# Simulated fleets: without the race detector, which makes them ten times as slow and has its own share of them. The first seed is
# fixed, so that a run that fails does so because of a change; FIRST_SEED=0 draws one, as make fuzz does.
SCHEDULES ?= 10000
FIRST_SEED ?= 1
# The longest test package boots real hosts.
TIMEOUT ?= 60m

.PHONY: build demo test tools root lab lint bench package fuzz clean

build: ## programs into bin/
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

demo: ## the main job, end to end, without root or systemd
	$(GO) run ./integration/demo

test: tools lint ## everything; real hosts too when root; ends with what was left out, and why
	@{ $(RACE_ENV) $(GO) test -json $(RACE) $(OWN) -timeout $(TIMEOUT) $$($(GO) list ./... | grep -v -e /integration$$ $(UNABLE)) && \
	  $(GO) test -json -timeout $(TIMEOUT) -run Simulat ./agent/hub -schedules $(SCHEDULES) -from $(FIRST_SEED) && \
	  $(GO) test -json -timeout $(TIMEOUT) ./integration; } | $(GO) run ./integration/summary $(NOTE)

# Releases are read-only, and pruning looks at all processes. So whoever is not root gets root's rights over what is theirs, and a
# process table of their own, for each package. What that cannot stand in for is left out, and told.
ALONE := $(CURDIR)/integration/alone.sh
ifneq ($(shell id -u),0)
ifeq ($(shell $(ALONE) true 2>/dev/null && echo yes),yes)
OWN = -exec $(ALONE) -skip '^TestKill(AtEveryDurableStep|WhileAFailedFirst|DuringARecovery)'
NOTE = 'agent TestKill…: they prune while processes die beside them, whom only root may look at'
else
UNABLE = -e /agent$$ -e /agent/release$$ -e /agent/store$$
NOTE = 'agent, agent/release, agent/store: they need root, or user namespaces, which this host does not give you'
endif
endif

# What the tests call besides Go; integration/lab installs what its hosts need. Only root on Debian can be helped.
TOOLS := gcc strace zstd mkfs.ext4 softhsm2-util pkcs11-tool jq openssl
tools:
	@missing=; for t in $(TOOLS); do PATH=$$PATH:/usr/sbin:/sbin command -v $$t >/dev/null || missing="$$missing $$t"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev strace zstd e2fsprogs softhsm2 opensc jq openssl >/dev/null; \
	else echo "not found and not installed (that takes root on Debian):$$missing; the tests that need them say so"; fi

# The race detector needs a C compiler.
RACE = $(shell command -v gcc >/dev/null 2>&1 && echo -race)
RACE_ENV = $(if $(RACE),CGO_ENABLED=1)

lint: ## gofmt, go vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not gofmt'ed: $$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

lab: root package ## one running host to play with (root)
	$(GO) run ./integration/lab/cmd/lab

root:
	@[ "$$(id -u)" = 0 ] || { echo "cannot boot a host: that needs root, for namespaces and mounts; make demo needs none" >&2; exit 1; }

bench: ## speed and size, against named peers in the same run
	$(GO) test -run '^$$' -bench . -benchtime 1x -count 5 ./agent/release ./tuf/client ./tuf/repository ./cmd/slipway-repo ./agent/hub/etcd ./integration/bench ./integration

package: ## deb and rpm into dist/
	packaging/build.sh

fuzz: ## every fuzz target for FUZZTIME
	@for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p 2>/dev/null | grep '^Fuzz'); do \
	    echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-30s} -fuzzminimizetime 5x $$p || exit 1; \
	  done; \
	done

clean:
	rm -rf bin dist
