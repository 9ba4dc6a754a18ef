"""Apps as their folders are in containers.git: what in their files will not work on a device."""
