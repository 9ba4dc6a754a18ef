"""For all tests."""

import hypothesis

# No test is timed: machines are noisy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
