"""Making preloaded images, and reading them back."""
