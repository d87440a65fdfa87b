"""The one exception that is meant for the person at the keyboard."""


class SaferlrmError(Exception):
    """A problem the user can mend: one line that says what is wrong and what to do.

    The command line prints it as ``error: …`` without a traceback and exits with status 2.
    """
