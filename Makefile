# What a user needs: make run, make test. What a developer needs beside: make check.
# `make help` lists the targets.

SHELL := /bin/bash
GO ?= go
# One set of flags for whatever compiles, tests and linters included, so that
# nothing is compiled twice: it is half of what a fresh machine has to do. The
# binaries are static and the same on every machine.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false
KUBECTL_VERSION := v1.37.2
BUILD := $(GO) build -ldflags='-buildid= -X k8s.io/component-base/version.gitVersion=$(KUBECTL_VERSION)'
# What is executed for every container or Pod has code that runs before the Go runtime
# starts: cmd/cni-shim/early_linux.go, internal/oneshot, internal/pause.
ifneq ($(filter amd64 arm64,$(shell $(GO) env GOARCH)),)
entry = -ldflags='./cmd/$(1)=-buildid= -E $(2).entry'
INTERNAL := github.com/nodekit-project/nodekit/internal
BUILD += $(call entry,cni,$(INTERNAL)/oneshot) $(call entry,cni-shim,main) $(call entry,keeper,$(INTERNAL)/pause) $(call entry,podtool,$(INTERNAL)/pause)
endif
# The time is for what hangs: ./cmd/nodekit takes ten minutes on a slow machine. Tests
# wait more than they compute, so that two processors have four packages to test.
PACKAGES_AT_ONCE := $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n > 4 ? n : 4)))
TEST := $(GO) test -count=1 -timeout=1800s -vet=all -p=$(PACKAGES_AT_ONCE)
# What an author builds a plugin with, on Linux and on macOS.
PORTABLE := ./cri ./cri/client ./cri/log ./cni ./cni/state ./csi ./csi/client ./deviceplugin ./deviceplugin/client ./conformance/... ./examples/...
# Tests whose outcome depends on the kernel and its cgroup version.
VM_TESTS := ./cni/bridge ./cri/oci/warm ./internal/cgroup ./internal/leak ./internal/mount ./internal/netns ./internal/supervisor ./kubelet/qos
KILLS ?= 300
PODTOOL_IMAGE := nodekit.dev/podtool:v1

.PHONY: help build run test kills soak bench upstream conformance test-vm vm-tests check fmt fmt-check vet imports cross lint deps clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build nodekit, its helpers and the demo image into bin/
	$(BUILD) -o bin/ ./cmd/*
	@mkdir -p bin/images
	bin/nodekit image pack --name $(PODTOOL_IMAGE) --output bin/images/podtool.tar bin/podtool

run: ## run examples/pod.yaml on a node of its own (as root)
	@tools/deps run
	@$(MAKE) --no-print-directory build
	bin/nodekit run examples/pod.yaml

test: ## run all tests; those that need root or a program say so when they skip
	@tools/deps test
	@$(MAKE) --no-print-directory build
	$(TEST) ./...
	cd tools/controller && $(TEST) ./...
	cd tools/oldclient && $(TEST) -tags streams ./... && $(TEST) -modfile=v035.mod ./...

kills: build ## kill a node KILLS times at random moments under living Pods, and a runtime and its keeper in 200 cycles
	@tools/deps test
	$(TEST) -run TestRandomCycles -v ./cri/oci -cycles 200
	$(TEST) -run TestRandomKills -v ./cmd/nodekit -kills $(KILLS)

soak: build ## run all tests again and again with the race detector, every tier of the suites, 10000 operations of CNI, and 2000 cycles of kills
	@tools/deps test
	$(TEST) -timeout=2h -run TestRandomCycles -v ./cri/oci -cycles 2000
	$(GO) test -count=1 -timeout=2h -run TestRandomOperations -v ./cmd/cni -ops 10000
	$(GO) test -count=1 -run TestConformContainerd ./cmd/nodekit -containerd-rules 'CRI-*'
	CGO_ENABLED=1 $(GO) test -race -count=5 -timeout=2h ./...
	$(GO) test -count=1 -timeout=2h -run 'TestMutants|TestOdd' ./conformance/cnisuite ./conformance/crisuite ./conformance/criclientsuite -all-mutants
	TIER=soak tools/conformance

conformance: build ## hold the reference plugins to their specifications
	@tools/deps test
	tools/conformance

upstream: ## build upstream's CNI plugins, and the least that there can be, which ours are compared with, into bin/upstream/
	cd tools/upstream && $(GO) build -ldflags='-s -w -buildid=' -o ../../bin/upstream/ tool ./nothing
	$(GO) build -ldflags='-s -w -buildid=' -o bin/upstream/ ./cmd/nodekit/internal/cnibench/least

bench: build upstream ## measure a Pod's way to Ready, a node, its Kubernetes API, the CNI plugins beside upstream's, and the CRI runtime beside containerd
	@tools/deps run
	bin/nodekit bench
	bin/nodekit bench start
	bin/nodekit bench apply
	bin/nodekit bench exit
	bin/nodekit bench restart --rounds 10
	bin/nodekit bench api
	bin/nodekit bench cni
	bin/nodekit bench cri

test-vm: vm-tests ## run Pods, the runtime's tests and its suite in a virtual machine with systemd and cgroup v2 only
	tools/vm/test bin

vm-tests: build ## build what runs in the virtual machine
	@tools/deps vm
	$(GO) test -c -o bin/tests/ $(VM_TESTS)
	$(GO) test -c -o bin/tests/oci ./cri/oci
	$(GO) test -c -ldflags='-s -w' -o bin/tests/crisuite ./conformance/crisuite
	$(GO) test -c -ldflags='-s -w' -o bin/tests/nodekit ./cmd/nodekit
	$(GO) build -ldflags='-s -w -buildid=next' -o bin/tests/next ./cmd/nodekit

check: fmt-check vet imports cross lint ## everything that needs no privilege

fmt: bin/tools/gofumpt ## format the code
	$< -w $$(git ls-files '*.go')

fmt-check: bin/tools/gofumpt
	@unformatted=$$($< -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; }

vet:
	$(GO) vet ./...

imports: ## check who imports whom
	$(GO) test -count=1 -run 'Import|Scan|SmallBinaries|Optional|GoMod|Rules' ./internal/repocheck

cross: bin/tools/typecheck ## check the types for linux/arm64, and of what authors use for darwin
	GOARCH=arm64 $< ./...
	GOOS=darwin $< $(PORTABLE)

lint: bin/tools/golangci-lint ## run the linters of .golangci.yml
	bin/tools/golangci-lint run ./...

deps: ## install the Debian packages that tests need
	tools/deps run test vm

clean: ## remove what make has built
	rm -rf bin

# The tools have a module of their own, so that no user of nodekit gets their
# dependencies.
bin/tools/golangci-lint: tools/go.mod tools/go.sum
	cd tools && $(GO) build -o ../bin/tools/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

bin/tools/typecheck: tools/go.mod tools/go.sum tools/typecheck/main.go
	cd tools && $(GO) build -o ../bin/tools/ ./typecheck

bin/tools/gofumpt: tools/go.mod tools/go.sum
	cd tools && $(GO) build -o ../bin/tools/ mvdan.cc/gofumpt
