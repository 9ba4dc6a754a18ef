"""The host side of preloading: what an image gets, and images that have it. Never on a device."""

__version__ = "0.1.0"
