"""A family of recipes as somebody else would add one: this folder, and its name in the registry."""
