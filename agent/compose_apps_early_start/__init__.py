"""Start preloaded Docker Compose apps offline, before the device is registered."""

__version__ = "0.1.0"
