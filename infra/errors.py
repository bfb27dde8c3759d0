"""Errors that are meant for the person at the keyboard."""


class ExplainedError(Exception):
    """An error whose message says what happened and what to do; the command line prints it without a traceback."""
