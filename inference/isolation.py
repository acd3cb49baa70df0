"""Decoding in processes apart: an image that kills or hangs its decoder costs nobody else anything.

Each process has one image at a time, so that a death names its image.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import numpy as np

from inference.children import LOST, Child, exit_words, receive, send
from inference.errors import DecoderCrashedError, DecoderTimeoutError, ImageError, error_of
from inference.memory import Reserve, no_limit
from inference.types import Pixels, Preprocessing

logger = logging.getLogger(__name__)

MODULE = "inference.isolated_decoder"

DYING_S = 10.0
"""How long a process may take to be gone after its end of the channel is: its memory may be written to a core file."""

FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM})
"""How a process ends that somebody else killed: the image is given a second chance."""


class IsolatedDecoders:
    """Some processes that decode. Safe to share between threads; a context manager.

    A process is started when it is first needed, and again when one has died.

    Args:
        processes: How many decode at a time.
        preprocessing: What the model expects.
        max_pixels: Largest width x height that is decoded.
        timeout_s: Seconds that one image may take.
        reserve: Where a process's need for memory is booked.
    """

    def __init__(
        self,
        processes: int,
        preprocessing: Preprocessing,
        *,
        max_pixels: int,
        timeout_s: float,
        reserve: Reserve = no_limit,
    ) -> None:
        self._preprocessing = preprocessing
        self._max_pixels = max_pixels
        self._timeout_s = timeout_s
        self._reserve = reserve
        self._idle: queue.LifoQueue[Child | None] = queue.LifoQueue()
        for _ in range(processes):
            self._idle.put(None)
        self._alive: set[Child] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process, also those at work: whoever waits for one gets DecoderCrashedError."""
        with self._lock:
            self._is_closed = True
            children, self._alive = self._alive, set()
        for child in children:
            child.exit_status()

    def decode(self, data: bytes) -> Pixels:
        """Decode as ``decoding.decode_image`` does; waits for a free process.

        Raises:
            DecoderCrashedError, DecoderTimeoutError: the image killed its process, or took too long.
            ImageError: as ``decoding.decode_image``.
        """
        child = self._idle.get()
        try:
            for is_last in (False, True):
                if child is None:
                    child = self._start()
                try:
                    return self._ask(child, data)
                except LOST as error:
                    status = self._end(child, DYING_S)
                    child = None
                    if is_last or status not in FROM_OUTSIDE or self._is_closed:
                        raise DecoderCrashedError(
                            f"the process that decoded this image {exit_words(status)}; keep the image from people's "
                            "viewers until it is known why"
                        ) from error
                except DecoderTimeoutError:
                    self._end(child)
                    child = None
                    raise
            raise AssertionError  # the second try returns or raises
        finally:
            self._idle.put(child)

    def _start(self) -> Child:
        with self._lock:
            if self._is_closed:
                raise DecoderCrashedError("decoding was ended while this image waited for it; it is tried again")
            child = Child(MODULE)
            self._alive.add(child)
        send(child.channel, {"preprocessing": asdict(self._preprocessing), "max_pixels": self._max_pixels})
        return child

    def _end(self, child: Child, patience_s: float = 0.0) -> int:
        with self._lock:
            self._alive.discard(child)
        status = child.exit_status(patience_s)
        child.close()
        return status

    def _ask(self, child: Child, data: bytes) -> Pixels:
        child.channel.send_bytes(data)
        deadline = time.monotonic() + self._timeout_s
        asked = self._answer(child, deadline)
        if "reserve" not in asked:
            raise self._refusal(asked)
        with self._reserve(int(asked["reserve"])):
            deadline = time.monotonic() + self._timeout_s
            send(child.channel, {"go": True})
            answer = self._answer(child, deadline)
            if "code" in answer:
                raise self._refusal(answer)
            raw = child.channel.recv_bytes(self._preprocessing.height * self._preprocessing.width * 3)
        return np.frombuffer(raw, np.uint8).reshape(self._preprocessing.height, self._preprocessing.width, 3)

    def _answer(self, child: Child, deadline: float) -> dict[str, Any]:
        if not child.channel.poll(max(0.0, deadline - time.monotonic())):
            raise DecoderTimeoutError(
                f"decoding the image took more than {self._timeout_s:g} s; save it anew, or raise "
                "NIGHTLABEL_DECODE_TIMEOUT_S"
            )
        return receive(child.channel)

    def _refusal(self, answer: dict[str, Any]) -> ImageError:
        error = error_of(str(answer["code"]), str(answer["message"]))
        if isinstance(error, ImageError):
            return error
        return DecoderCrashedError(f"the process that decoded this image failed ({error.code}: {error}); report this")
