"""Where model files come from: catalog, sources, download, checksums."""
