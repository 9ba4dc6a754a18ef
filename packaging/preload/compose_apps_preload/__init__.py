"""The host side of preloading: decide which apps an image gets, and make preloaded images."""

__version__ = "0.1.0"
