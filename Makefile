# For Debian 12 or later, as root: what the machine lacks is installed. `layer` and `layer-check`
# install nothing, need no root, and run with Python 3.8, as in LmP's build containers.

PYTHON := python3
VENV := .cache/venv
# A machine is booted as the host tool boots one.
DEVICE := $(CURDIR)/packaging/device:$(CURDIR)/packaging/preload:$(CURDIR)/agent
INSTALL := packaging/device/install-host-packages
RECIPE := bitbake/meta-subscriber-overrides/recipes-support/compose-apps-early-start

.PHONY: help demo shell boot timeline test check test-unit test-boot test-powercut \
	test-suites test-arm64 fuzz bench bench-boot completions deb layer layer-check release version \
	clean device-packages boot-packages test-packages
# Nothing here is worth running side by side, and only one may use apt at a time.
.NOTPARALLEL:

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 16

demo: ## the first boot of a device with preloaded apps
shell: ## a root shell on such a device, the agent not yet started
demo shell: device-packages
	@deb=$$(packaging/debian/build build) && \
	PYTHONPATH=$(DEVICE) $(PYTHON) -m virtual_device $@ "$$deb"

boot: device-packages boot-packages ## the first boot of a whole machine (DEFAULT_APPS="a b" REGISTERED=1 SUITE= ARCH=arm64)
	@deb=$$(packaging/debian/build build) && \
	PYTHONPATH=$(DEVICE) $(PYTHON) -m virtual_device boot "$$deb" \
		$(if $(filter undefined,$(origin DEFAULT_APPS)),,--default-apps "$(DEFAULT_APPS)") \
		$(if $(REGISTERED),--registered) $(if $(SUITE),--suite "$(SUITE)") \
		$(if $(ARCH),--arch "$(ARCH)")

timeline: device-packages boot-packages ## draws such a boot into docs/timeline.svg
	@deb=$$(packaging/debian/build build) && \
	PYTHONPATH=$(DEVICE) $(PYTHON) -m virtual_device timeline "$$deb" docs/timeline.svg

# The boots keep one processor busy beside all other tests, which rarely need more than the other.
test: device-packages boot-packages $(VENV)/made ## all tests
	@mkdir -p build; \
	BOOTS_AT_ONCE=1 $(VENV)/bin/python -m pytest tests/boot >build/boots.log 2>&1 & boots=$$!; \
	$(VENV)/bin/python -m pytest; status=$$?; \
	wait $$boots || status=$$?; \
	cat build/boots.log; exit $$status

check: $(if $(T),device-packages boot-packages $(VENV)/made) ## one test file or folder (T=tests/boot/test_first_boot.py)
	@[ -n "$(T)" ] || { echo "name a test: make check T=tests/boot/test_first_boot.py" >&2; exit 2; }
	$(VENV)/bin/python -m pytest $(T)

test-unit: $(VENV)/made ## the quick tests, all linters among them
	$(VENV)/bin/python -m pytest tests/unit tests/preload

test-boot: device-packages boot-packages $(VENV)/made ## whole boots of an emulated machine
	$(VENV)/bin/python -m pytest tests/boot

fuzz: $(VENV)/made ## fuzzing of the agent for a minute in all (SECONDS=600; ONLY=, SEED= and BLOB= replay)
	FUZZ_SECONDS=$(or $(SECONDS),60) FUZZ_SEED=$(SEED) FUZZ_BLOB='$(BLOB)' $(VENV)/bin/python -m pytest \
		tests/fuzz --timeout $$(($(or $(SECONDS),60) + 240)) $(if $(ONLY),-k "$(ONLY)")

test-powercut: device-packages boot-packages $(VENV)/made ## power cuts at the first boot, with the disk's cache lost (N=100)
	POWER_CUTS=$(or $(N),20) POWER_CUT_KINDS="restored preloaded created-ahead" \
		$(VENV)/bin/python -m pytest tests/boot/test_power_cut.py

SUITES := bookworm trixie forky
MAIN_PATHS := $(addprefix tests/engine/test_,$(addsuffix .py,adoption causes fast_engine offline repairs \
	restorable_folders))
# docker 20.10, which is bookworm's, has no containerd image store to load images into.
ON_OVERLAY2 := test_on_a_stock_overlay2_folders_come_back_and_images_are_diagnosed
test-suites: device-packages boot-packages $(VENV)/made ## boots of each Debian suite, and the main engine tests on its docker; containers of one suite on another
	SUITES="$(SUITES)" $(VENV)/bin/python -m pytest tests/boot/test_suites.py
	for suite in $(SUITES); do \
		restored=tests/engine/test_restorable.py; \
		[ $$suite != bookworm ] || restored=$$restored::$(ON_OVERLAY2); \
		ENGINE_SUITE=$$suite $(VENV)/bin/python -m pytest $(MAIN_PATHS) $$restored || exit; \
	done
	for pair in "trixie forky" "forky trixie" "trixie bookworm" "bookworm trixie"; do \
		set -- $$pair; MAKER_SUITE=$$1 ENGINE_SUITE=$$2 $(VENV)/bin/python -m pytest \
			tests/engine/test_created_ahead.py || exit; \
	done

# It takes too long for CI.
test-arm64: ARCH := arm64
test-arm64: device-packages boot-packages $(VENV)/made ## boots of preloaded images for arm64, emulated
	DEVICE_ARCH=$(ARCH) $(VENV)/bin/python -m pytest tests/preload_image/test_first_boot.py

bench: device-packages $(VENV)/made ## the benchmarks
	PYTHONPATH=$(DEVICE) $(VENV)/bin/python tests/bench/bench.py
	PYTHONPATH=$(DEVICE):$(CURDIR)/tests \
		$(VENV)/bin/python tests/bench/bench_restore.py
	PYTHONPATH=$(DEVICE):$(CURDIR)/tests \
		$(VENV)/bin/python tests/bench/bench_preload.py
	PYTHONPATH=$(DEVICE):$(CURDIR)/tests \
		$(VENV)/bin/python tests/bench/bench_registry.py

bench-boot: device-packages boot-packages $(VENV)/made ## the benchmark of whole boots
	PYTHONPATH=$(DEVICE) $(VENV)/bin/python tests/bench/bench_boot.py

completions: $(VENV)/made ## writes the completions of bash anew, after a change of an option
	for command in compose-apps-early-start compose-apps-preload; do \
		PYTHONPATH=agent:packaging/preload $(VENV)/bin/python completions/make.py $$command \
			>completions/$$command.new && mv completions/$$command.new completions/$$command || exit; \
	done

deb: ## the Debian packages: the agent's, its options, the host tool's
	@packaging/debian/build build
	@packaging/debian/build build fast-engine
	@packaging/debian/build build offline-docker
	@packaging/debian/build build preload

layer: ## puts the Yocto recipe into a factory's layer (DEST=); without DEST, makes its source archive
ifeq ($(origin DEST),undefined)
	@$(PYTHON) bitbake/source_archive.py $(RECIPE)/compose-apps-early-start
else
	@$(PYTHON) bitbake/factory_layer.py install "$(DEST)"
endif

release: ## makes the files of a release of the last commit in build/release, and prints its tag
	@$(INSTALL) python3 debhelper dh-python git
	@$(PYTHON) packaging/release.py make build/release

version: ## writes the version in all places, after a change of the agent's __version__
	@$(PYTHON) packaging/release.py version

layer-check: ## says whether BitBake would build the recipe there (DEST=)
	@$(PYTHON) bitbake/factory_layer.py check "$(DEST)"

clean: ## removes what the above left in this folder (the device's cache is in ~/.cache)
	rm -rf $(RECIPE)/compose-apps-early-start
	rm -rf build .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

device-packages:
	@$(INSTALL) python3 mmdebstrap debhelper dh-python

boot-packages:
	@$(INSTALL) qemu-system-x86 qemu-utils e2fsprogs kmod $(if $(filter arm64,$(ARCH)),qemu-system-arm)

# systemd-python comes as source only, hence all up to pkg-config.
# systemd and mandoc check the units and the man page, lintian the packages that debhelper makes,
# busybox the shell script that ships; reuse needs file's library; git holds the branches of
# containers.git. From skopeo on: what makes a preloaded image, bmaptool, which writes it to a disk,
# and pigz, which a benchmark compares with; mtools and ovmf: a disk that UEFI boots.
test-packages:
	@$(INSTALL) python3 python3-venv python3-dev gcc libsystemd-dev pkg-config systemd mandoc \
		debhelper dh-python lintian file \
		busybox git skopeo e2fsprogs fdisk bmap-tools pigz sudo xz-utils zstd mtools ovmf

# The dependencies only: the tests find the agent in the tree. The libraries of both LmP releases
# lie beside them, each release's in a folder of its name, for the tests of the layer; so does what
# the documented installation of the host tool gets from PyPI, for a test that has no network.
RELEASES := $(wildcard tests/layer/*.libraries)
$(VENV)/made: pyproject.toml packaging/preload/pyproject.toml $(RELEASES) | test-packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"%s is Python %d.%d, this needs 3.11 or later" % (sys.executable, *sys.version_info[:2]))'
	$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*p["dependencies"], *p["optional-dependencies"]["test"], sep="\n")' >$(VENV)/requirements.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --use-pep517 \
		-r $(VENV)/requirements.txt
	$(VENV)/bin/pip download --quiet --disable-pip-version-check --dest $(VENV)/wheels \
		"setuptools>=65" $$($(VENV)/bin/python -c 'import tomllib; \
		print(*tomllib.load(open("packaging/preload/pyproject.toml", "rb"))["project"]["dependencies"])')
	for release in $(basename $(notdir $(RELEASES))); do \
		$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps \
			--target $(VENV)/$$release -r tests/layer/$$release.libraries || exit; done
	touch $@
