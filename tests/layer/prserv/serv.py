"""Nothing of it is called for finding recipes."""
