"""The splits that speakers are divided into."""

DEFAULT_SPLIT = "train"
SPLITS = ("train", "validation", "test")
