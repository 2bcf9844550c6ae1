"""The one exception that means: what the user gave cannot be used."""


class InputError(ValueError):
    """Bad input, told in one line: what came, what was expected, what to do.

    Programs print the line and exit with status 2; any other exception is a bug of ours and keeps
    its traceback.
    """
