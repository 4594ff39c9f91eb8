"""Models and training. Imports `shards`; never Ray."""
