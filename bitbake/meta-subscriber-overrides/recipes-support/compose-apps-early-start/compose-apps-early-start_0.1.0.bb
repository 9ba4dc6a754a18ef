# Takes the place of meta-lmp's recipe of the same name, from a layer of a higher priority. That
# recipe installs a script that deletes apps which are not on the shortlist, and after two failures
# all apps and docker's data.
SUMMARY = "Start preloaded Docker Compose apps before the device is registered"
SUMMARY:${PN}-fast-engine = "docker's containers are run by crun, which starts them faster"
SUMMARY:${PN}-offline-docker = "Docker does not wait for the network on an unregistered device"
DESCRIPTION = "Starts the Docker Compose apps of an image at the first boot: offline, before the \
device is registered and before aktualizr-lite. Does nothing on a registered device. Takes the place \
of meta-lmp's script of the same name."
SECTION = "admin"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=c014b3053d3d896156ea9787237728b4"

# `make layer` in the source tree puts the archive beside the recipe. From git instead, in a
# .bbappend, on every release:
#   SRC_URI = "git://HOST/compose-apps-early-start.git;protocol=https;branch=main;destsuffix=${BP}"
#   SRCREV = "<commit>"
#   PV:append = "+git"
# Either way the source is in ${BP} below what the release unpacks into, so S needs no line.
SRC_URI = "file://${BP}.tar.gz"

inherit bash-completion features_check ptest python_setuptools_build_meta systemd

REQUIRED_DISTRO_FEATURES = "systemd"

# See docs/integration.md first. fast-engine: crun runs docker's containers. offline-docker: docker
# does not wait for the network on an unregistered device.
PACKAGECONFIG ??= ""
PACKAGECONFIG[fast-engine] = ",,,${PN}-fast-engine"
PACKAGECONFIG[offline-docker] = ",,,${PN}-offline-docker"

SYSTEMD_SERVICE:${PN} = "compose-apps-early-start.service"

do_install:append() {
    # setuptools of kirkstone does not know [project], and builds a package without a program.
    [ -e ${D}${bindir}/compose-apps-early-start ] || \
        bbfatal "compose-apps-early-start needs Yocto 5.0 (LmP v95) or later"
    install -D -m 0644 ${S}/systemd/compose-apps-early-start.service \
        ${D}${systemd_system_unitdir}/compose-apps-early-start.service
    install -D -m 0644 ${S}/systemd/compose-apps-early-start.catalog \
        ${D}${nonarch_libdir}/systemd/catalog/compose-apps-early-start.catalog
    install -D -m 0644 ${S}/systemd/compose-apps-early-start.conf \
        ${D}${nonarch_libdir}/tmpfiles.d/compose-apps-early-start.conf
    install -D -m 0644 ${S}/docs/compose-apps-early-start.8 \
        ${D}${mandir}/man8/compose-apps-early-start.8
    install -d ${D}${docdir}/${BPN}/examples
    install -m 0644 ${S}/examples/* ${D}${docdir}/${BPN}/examples/
    install -D -m 0644 ${S}/completions/compose-apps-early-start \
        ${D}${datadir}/bash-completion/completions/compose-apps-early-start
    for option in fast-engine offline-docker; do
        install -D -m 0755 ${S}/systemd/compose-apps-early-start-$option \
            ${D}${systemd_unitdir}/system-generators/compose-apps-early-start-$option
    done
    install -d ${D}${libexecdir}/${BPN}/fast-engine
    ln -rs ${D}${bindir}/crun ${D}${libexecdir}/${BPN}/fast-engine/runc
    install -D -m 0755 ${S}/fioconfig/early-start ${D}${datadir}/fioconfig/actions/early-start
}

# ptest-python-pytest is newer than scarthgap, and would bring pytest onto the device.
do_install_ptest() {
    install -D -m 0755 ${S}/tests/ptest/run-ptest ${D}${PTEST_PATH}/run-ptest
}

PACKAGES =+ "${PN}-fast-engine ${PN}-offline-docker"

FILES:${PN} += "\
    ${datadir}/fioconfig/actions \
    ${nonarch_libdir}/systemd/catalog \
    ${nonarch_libdir}/tmpfiles.d \
"
FILES:${PN}-fast-engine += "\
    ${libexecdir}/${BPN}/fast-engine \
    ${systemd_unitdir}/system-generators/compose-apps-early-start-fast-engine \
"
FILES:${PN}-offline-docker += "\
    ${systemd_unitdir}/system-generators/compose-apps-early-start-offline-docker \
"

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
    python3-resource \
    python3-sdnotify \
    python3-shell \
    python3-systemd \
    python3-threading \
    python3-urllib3 \
"
# Only then, because BitBake builds what any package needs, in the image or not.
RDEPENDS:${PN}-fast-engine = "${@bb.utils.contains('PACKAGECONFIG', 'fast-engine', 'crun', '', d)}"
