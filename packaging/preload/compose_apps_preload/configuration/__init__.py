"""Which apps a Target is preloaded with: what factory-config.yml says."""
