"""The process that ``isolation.IsolatedDecoders`` starts: decodes what it is sent, an image at a time.

Entry point: ``python -m inference.isolated_decoder DESCRIPTOR PARENT_PID``.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from inference.children import LOST, join_parent, receive, send
from inference.decoding import decode_image
from inference.errors import DecoderOutOfMemoryError, ImageError
from inference.memory import give_freed_memory_back
from inference.types import Preprocessing


def serve(channel: Connection) -> None:
    """Answer requests until the other side is gone.

    The first message names preprocessing and bounds, and is answered when this process is ready. Then each image is
    sent as bytes, and answered either by its error or by how much memory it needs; that is granted or refused by a
    message, and then come the pixels, or an error.
    """
    bounds = receive(channel)
    preprocessing = Preprocessing(**bounds["preprocessing"])
    data = b""

    @contextmanager
    def reserve(wanted: int) -> Iterator[None]:
        send(channel, {"reserve": wanted + len(data)})  # this process has a copy of its own
        if not receive(channel)["go"]:
            raise DecoderOutOfMemoryError("there is not enough memory to decode the image")
        yield

    send(channel, {"ready": True})

    while True:
        data = channel.recv_bytes()
        try:
            pixels = decode_image(data, preprocessing, max_pixels=bounds["max_pixels"], reserve=reserve)
        except ImageError as error:
            send(channel, {"code": error.code, "message": str(error)})
        else:
            send(channel, {"pixels": True})
            channel.send_bytes(pixels.reshape(-1).data)  # a channel counts along the first axis


def main() -> None:
    """Serve the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what kills a decoder is not to fill a disk each time
    channel = join_parent(sys.argv[1:])
    give_freed_memory_back()
    try:
        serve(channel)
    except LOST:
        return


if __name__ == "__main__":
    main()
