"""find.py LAYER...: prints which recipes BitBake finds in these layers, the one it prefers first.

Real are BitBake's parser of layer.conf, and how it collects files (the wheel bitbake-setup). By
hand are two steps that it has only inside of its server: BBFILES_DYNAMIC, and that among recipes of
one name the priority of the layer decides, then the version.
"""

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import bb.cooker
import bb.data_smart
import bb.parse
import bb.siggen
import bb.utils


def find(layers: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the recipes with their .bbappend files, and LAYERDEPENDS of all layers."""
    store = bb.data_smart.DataSmart()
    bb.parse.siggen = bb.siggen.init(store)
    for layer in layers:
        store.setVar("LAYERDIR", layer)
        store = bb.parse.handle(f"{layer}/conf/layer.conf", store, include=True)
        store.expandVarref("LAYERDIR")
    names = store.getVar("BBFILE_COLLECTIONS").split()
    for entry in (store.getVar("BBFILES_DYNAMIC") or "").split():
        collection, _, files = entry.partition(":")
        if collection in names:
            store.appendVar("BBFILES", f" {files}")
    priorities = []
    for name in names:
        pattern = store.getVar(f"BBFILE_PATTERN_{name}")
        priority = int(store.getVar(f"BBFILE_PRIORITY_{name}"))
        priorities.append((name, pattern, re.compile(pattern), priority))
    collected = bb.cooker.CookerCollectFiles(priorities)
    files, _, _ = collected.collect_bbfiles(store, None)

    def preference(file: str) -> tuple[int, list[int]]:
        version = Path(file).stem.partition("_")[2] or "1.0"
        return collected.calc_bbfile_priority(file)[0], [*map(int, version.split("."))]

    found = [
        {"recipe": file, "appends": collected.get_file_appends(file)}
        for file in sorted(files, key=preference, reverse=True)
    ]
    depends = [store.getVar(f"LAYERDEPENDS_{name}") or "" for name in names]
    return found, " ".join(depends).split()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    print(json.dumps(find(sys.argv[1:])))
