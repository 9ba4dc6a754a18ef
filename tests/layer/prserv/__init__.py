"""Stands for the server of package revisions: bb imports it, its wheel lacks it."""
