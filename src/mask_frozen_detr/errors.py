"""The one error a user can mend: the command line prints its text without a traceback and exits with code 2."""


class UserError(ValueError):
    """Bad input: the message names the file, key or option, what was found and what was expected."""
