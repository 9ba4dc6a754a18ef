"""What factory-config.yml says about the apps that a Target is preloaded with."""
