"""The one error with which the demo stops."""


class DemoError(RuntimeError):
    """
    The demo could not go on; the message says what happened and what to do next.

    A demo that runs to its end and finds wrong points does not raise: the result says so.
    """
