"""Nothing of it is called for parsing."""
