"""Trying an image: boot a copy of it under QEMU, and report what the agent did."""
