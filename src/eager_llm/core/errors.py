"""The one exception that people are meant to read."""


class UserError(Exception):
    """Something that the user can fix: the message names the file, row or field, and the fix.

    The command line prints it without a traceback; the service turns it into a 4xx answer.
    """
