"""Become another program that cannot outlive its parent. Run as a script: standard library only, no package imports.

Usage: ``tether.py SIGNAL PARENT_PID UID GID PROGRAM [ARGUMENT…]``; -1 keeps the user or group. A script of its own,
because the kernel forgets the death signal on a change of user, so that it has to be asked for after that change, and
because code between fork and exec of a process with threads is not safe.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(signal_number: int, parent_pid: int) -> None:
    """Ask the kernel to send this process a signal when its parent ends; exits if that has happened already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent_pid:
        sys.exit(f"the process {parent_pid}, which started this one, is gone")


def main() -> None:
    """Change user, ask for the signal, check that the parent still lives, and exec."""
    signal_number, parent_pid, uid, gid = (int(text) for text in sys.argv[1:5])
    program = sys.argv[5:]
    if gid >= 0:
        os.setgroups([])
        os.setgid(gid)
    if uid >= 0:
        os.setuid(uid)
    die_with_parent(signal_number, parent_pid)
    os.execvp(program[0], program)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
