"""A family of recipes as a user would add one: this folder, and its name in the registry."""
