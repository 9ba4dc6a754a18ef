"""The architectures of a virtual device, as Debian and Go name them."""

import os

from compose_apps_preload.image import platforms

ARCHITECTURES = ("amd64", "arm64")
OWN = platforms.parse(os.uname().machine).architecture
"""This machine's. Programs for another one run in an emulated machine only."""
