SUMMARY = "Start preloaded Docker Compose apps before the device is registered"
SUMMARY:${PN}-offline-docker = "Docker does not wait for the network on an unregistered device"
DESCRIPTION = "Starts the Docker Compose apps of an image at the first boot: offline, before the \
device is registered and before aktualizr-lite. Does nothing on a registered device."
HOMEPAGE = "https://git.example.test/compose-apps-early-start"
BUGTRACKER = "https://git.example.test/compose-apps-early-start/issues"
SECTION = "admin"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=c014b3053d3d896156ea9787237728b4"

# `make layer` in the source tree puts the archive here. From git instead, on both releases:
#   SRC_URI = "git://HOST/compose-apps-early-start.git;protocol=https;branch=main;destsuffix=${BP}"
#   SRCREV = "<commit>"
# Either way the source is in ${BP} below what each release unpacks into, so S needs no line.
SRC_URI = "file://${BP}.tar.gz"

inherit python_setuptools_build_meta systemd

# Docker does not wait for the network on an unregistered device: see docs/integration.md first.
PACKAGECONFIG ??= ""
PACKAGECONFIG[offline-docker] = ",,,${PN}-offline-docker"

SYSTEMD_SERVICE:${PN} = "compose-apps-early-start.service"

do_install:append() {
    install -D -m 0644 ${S}/systemd/compose-apps-early-start.service \
        ${D}${systemd_system_unitdir}/compose-apps-early-start.service
    install -D -m 0644 ${S}/systemd/compose-apps-early-start.catalog \
        ${D}${nonarch_libdir}/systemd/catalog/compose-apps-early-start.catalog
    install -D -m 0644 ${S}/systemd/compose-apps-early-start.conf \
        ${D}${nonarch_libdir}/tmpfiles.d/compose-apps-early-start.conf
    install -D -m 0644 ${S}/docs/compose-apps-early-start.8 \
        ${D}${mandir}/man8/compose-apps-early-start.8
    install -D -m 0755 ${S}/systemd/compose-apps-early-start-offline-docker \
        ${D}${systemd_unitdir}/system-generators/compose-apps-early-start-offline-docker
}

PACKAGES =+ "${PN}-offline-docker"

FILES:${PN} += "${nonarch_libdir}/systemd/catalog ${nonarch_libdir}/tmpfiles.d"
FILES:${PN}-offline-docker += "${systemd_unitdir}/system-generators"

# What the agent imports, package by package of the split standard library, and python3-shell, which
# the docker SDK needs and its recipe does not name. tests/layer compares, and runs the agent with
# just that: a package too few is found by no build, but by the device.
RDEPENDS:${PN} += "\
    docker-compose \
    python3-compression \
    python3-core \
    python3-crypt \
    python3-datetime \
    python3-difflib \
    python3-docker \
    python3-fcntl \
    python3-json \
    python3-pyyaml \
    python3-requests \
    python3-sdnotify \
    python3-shell \
    python3-systemd \
    python3-threading \
    python3-urllib3 \
"
