"""Makes the decoder of every Python process that finds this folder in ``PYTHONPATH`` die or hang of a marked image.

It stands in for what a decoder written in C does of the wrong bytes: nothing in Python can catch it.
"""

import ctypes
import importlib.abc
import importlib.machinery
import os
import sys
import time

ABORT, HANG, HANG_WITH_LOCK = b"POISON: abort", b"POISON: hang", b"POISON: hang with the interpreter's lock"
SLOW = b"POISON: slow"
SLOW_S = 1.5


def _poisoned(decode):
    def decode_image(data, *args, **options):
        if HANG_WITH_LOCK in data:
            ctypes.PyDLL(None).sleep(600)  # PyDLL does not let go of the lock: no other thread runs
        elif HANG in data:
            time.sleep(600)
        elif ABORT in data:
            os.abort()
        elif SLOW in data:
            time.sleep(SLOW_S)
        return decode(data, *args, **options)

    return decode_image


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "inference.decoding":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.decode_image = _poisoned(module.decode_image)

        spec.loader.exec_module = exec_module
        return spec


if __name__ == "sitecustomize":  # and not where a test only wants to know the marks
    sys.meta_path.insert(0, _Finder())
