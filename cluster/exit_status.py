"""What a command's exit status says; its help says when it gives which."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """0 is done, 1 a problem that was looked for and found."""

    DONE = 0
    PROBLEM = 1
    USAGE = 2  # options, files or data that cannot be used
    DAMAGED = 3  # done, but for input that was damaged or rejected
    UNFINISHED = 4  # stopped, refused or given up: to be run again
    INTERRUPTED = 130  # by Ctrl-C
