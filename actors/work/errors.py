"""What stops a whole job, though it was found out by one worker. Imports nothing but the base."""

from shards.config import ConfigError


class UnwritableFolderError(ConfigError):
    """A worker's machine cannot write to the folder for the tables."""


class UnusableModelsError(ConfigError):
    """The models cannot be loaded, which was found out only when the first of them was needed."""
