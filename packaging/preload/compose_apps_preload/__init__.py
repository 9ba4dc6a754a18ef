"""The host side of preloading: decide which apps an image gets, and make preloaded images."""

from compose_apps_early_start import __version__ as __version__
