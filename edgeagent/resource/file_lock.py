"""The kernel's lock on an open file: it excludes other processes, and ends with the one that has it."""

import fcntl


def lock_alone(descriptor: int) -> bool:
    """Whether the file is now locked for this descriptor alone; never waits."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
