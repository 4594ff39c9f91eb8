"""The exit statuses of all commands; each command's help says which it can end with."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """How a command ended: 0 means that everything is done."""

    DONE = 0
    PROBLEM = 1  # `doctor` looked for problems and found one
    USAGE = 2  # options, files or data that cannot be used
    DAMAGED = 3  # done, but for input that was damaged or rejected
    UNFINISHED = 4  # stopped, refused or given up: run the command again
    INTERRUPTED = 130  # by Ctrl-C
