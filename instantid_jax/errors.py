"""The exception for invalid user input."""


class InputError(Exception):
    """Invalid user input. One line: what was given, what was expected, how to fix it.

    Programs print the line and exit with status 2; any other exception is a bug in this
    package and keeps its traceback. Not a ValueError, because tyro would print it in several lines.
    """

    def __init__(self, message: str):
        # The values in it may be arrays, which take several lines.
        super().__init__(" ".join(message.splitlines()))
