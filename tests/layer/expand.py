"""expand.py RECIPE RELEASE WORKDIR VARIABLE...: prints variables as BitBake expands them.

The parser is the real one, from the wheel bitbake-setup; the classes are stubs (`classes/`), and
instead of bitbake.conf there are the few lines below. So this proves syntax: lines that cannot be
parsed, classes of a wrong name, how variables expand. That the names in RDEPENDS exist, and that
the files get into packages, only a build shows.
"""

import json
import sys
from pathlib import Path
from typing import Any

import bb.data_smart
import bb.parse
import bb.siggen

CONFIGURATION = {
    "PN": "${@bb.parse.vars_from_file(d.getVar('FILE', False), d)[0]}",
    "PV": "${@bb.parse.vars_from_file(d.getVar('FILE', False), d)[1]}",
    "BPN": "${PN}",
    "BP": "${BPN}-${PV}",
    "PACKAGES": "${PN}-dev ${PN}-doc ${PN}",
    "D": "${WORKDIR}/image",
    "bindir": "/usr/bin",
    "datadir": "/usr/share",
    "docdir": "/usr/share/doc",
    "libexecdir": "/usr/libexec",
    "nonarch_libdir": "/usr/lib",
    "systemd_unitdir": "/usr/lib/systemd",
    "systemd_system_unitdir": "/usr/lib/systemd/system",
    "mandir": "/usr/share/man",
    "PTEST_PATH": "/usr/lib/${BPN}/ptest",
}
RELEASES = {
    "scarthgap": {"S": "${WORKDIR}/${BP}"},
    "wrynose": {"UNPACKDIR": "${WORKDIR}/sources", "S": "${UNPACKDIR}/${BP}"},
}


def expand(recipe: str, release: str, work: str) -> Any:
    """Return the data store of ``recipe``; raises what BitBake's parser raises."""
    store = bb.data_smart.DataSmart()
    store.setVar("BBPATH", str(Path(__file__).resolve().parent))
    store.setVar("__bbclasstype", "recipe")
    for name, value in ({"WORKDIR": work} | CONFIGURATION | RELEASES[release]).items():
        store.setVar(name, value)
    bb.parse.siggen = bb.siggen.init(store)
    return bb.parse.handle(recipe, store)[""]


if __name__ == "__main__":
    expanded = expand(*sys.argv[1:4])
    print(json.dumps({name: expanded.getVar(name) for name in sys.argv[4:]}))
