"""At which addresses processes listen, as the kernel says it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from local_stack.processes import ProcessIdentity

LOOPBACK_AS_WRITTEN = "0100007F"
"""127.0.0.1 in /proc/net/tcp."""


def listening_addresses(processes: Iterable[ProcessIdentity]) -> dict[int, str]:
    """Return the TCP ports at which these processes listen, each with its address as the kernel writes it."""
    inodes = set()
    for process in processes:
        with suppress(FileNotFoundError):  # the process has ended meanwhile, as Postgres's vacuum workers do
            for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    inodes.add(os.readlink(descriptor))
    addresses = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                address, port = fields[1].split(":")
                addresses[int(port, 16)] = address
    return addresses
