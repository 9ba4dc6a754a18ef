"""The host side of preloading: what an image gets, and images that have it. Never on a device."""

from compose_apps_early_start import __version__ as __version__
