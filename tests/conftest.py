"""For all tests."""

import signal

import hypothesis

# In the background of a script, a shell has SIGINT ignored, and what ignores it hands that on: the
# programs that the tests interrupt would never know.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test is timed: machines are noisy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
