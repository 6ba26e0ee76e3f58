"""What the testing kit has to say to whoever writes a test."""

from windlass.errors import WindlassError


class TestingError(WindlassError):
    """The test asks for something that cannot be."""

    __test__ = False  # pytest would take the name for a test's


class UnscriptedWaitError(TestingError, AssertionError):
    """A run waits for something that nobody in the test gives it. The text says what, and how to script it."""


class CrashError(TestingError, AssertionError):
    """A crash has changed the result or the effects of a task. The text says where, and how to repeat it."""
