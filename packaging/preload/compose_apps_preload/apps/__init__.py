"""The folders of apps in containers.git, and finding what will not work on a device."""
