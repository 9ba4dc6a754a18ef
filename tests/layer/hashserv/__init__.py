"""Stands for the client of a server of build hashes: bb imports it, its wheel lacks it."""
