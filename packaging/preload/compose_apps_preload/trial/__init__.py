"""Trying an image: booting a copy of it under QEMU, and what the agent did then."""
