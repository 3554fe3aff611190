"""The one root of everything that hwnas raises for its user to read."""


class HwnasError(Exception):
    """A request that cannot be carried out; the message says what was asked, what was found and what to do.

    The command line prints it as one line on standard error and ends with exit code 2.
    """
