"""How long a registry that is far away makes preloading take: ten tagged images, 0.1 s per answer.

Each way is run twice: the second time all is in the cache.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from preload_image import device_image
from preload_image.examples import app, arguments, layers
from preload_image.proxy import Behaviour, proxy
from preload_image.registry import HOST, archive, configure_skopeo, serve
from virtual_device import device_tree
from virtual_device.cache import home as cache_home

_IMAGES = 10
_LATENCY = 0.1  # seconds
_WAYS = {"restorable store": ("--no-docker-store",), "both": ()}


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    os.environ["XDG_CACHE_HOME"] = str(cache_home().parent)
    program = device_tree().tools / "usr/bin/docker-registry"
    behaviour = Behaviour(latency=_LATENCY)
    with tempfile.TemporaryDirectory(dir=cache_home()) as scratch:
        folder = Path(scratch)
        (folder / "registry").mkdir()
        with serve(program, folder / "registry") as registry, proxy(registry, behaviour) as port:
            os.environ["HOME"] = scratch
            configure_skopeo(folder, port)
            services = []
            for number in range(_IMAGES):
                both = {
                    each: [*layers(each), archive({"number": b"%d" % number})]
                    for each in ("amd64", "arm64")
                }
                registry.push_image(f"factory/image-{number}", both)
                services.append(f"  s{number}: {{image: '{HOST}/factory/image-{number}:latest'}}\n")
            made = app(folder / "ten", "services:\n" + "".join(services))
            source = device_image.ext4(folder / "in.ext4", ostree=False, mib=300)
            for way, words in _WAYS.items():
                shutil.rmtree(folder / ".cache", ignore_errors=True)
                for run in ("first", "second"):
                    argv, environment = arguments(
                        *("image", source, "--app", made, "--arch", "arm64", *words),
                        *("-o", folder / "out.ext4"),
                    )
                    behaviour.asked.clear()
                    began = time.monotonic()
                    subprocess.run(argv, env=environment, check=True, stderr=subprocess.DEVNULL)
                    seconds = time.monotonic() - began
                    print(f"{way:18}{run:8}{seconds:6.1f} s{len(behaviour.asked):5} requests")
    return 0


if __name__ == "__main__":
    sys.exit(main())
