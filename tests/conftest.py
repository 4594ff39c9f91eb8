"""What holds for all tests."""

from hypothesis import settings

# Tests run side by side on few cores: how long an example takes says nothing about the code.
settings.register_profile("emostream", deadline=None)
settings.load_profile("emostream")
