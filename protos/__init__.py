"""Wire contracts and their committed stubs."""
