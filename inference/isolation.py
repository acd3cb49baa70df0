"""Decoding in processes apart: an image that kills or hangs its decoder costs nobody else anything.

Each process has one image at a time, so that a death names its image.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import numpy as np

from inference.children import LOST, Child, exit_words, receive, send
from inference.errors import DecoderCrashedError, DecoderTimeoutError, ImageError, WorkerDiedError, error_of
from inference.memory import Reserve, no_limit
from inference.types import Pixels, Preprocessing

logger = logging.getLogger(__name__)

MODULE = "inference.isolated_decoder"

DYING_S = 10.0
"""How long a process may take to be gone after its end of the channel is: its memory may be written to a core file."""

START_S = 60.0
"""How long a process may take until it is ready. It takes half a second where the machine is not busy."""

NONSENSE = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, MemoryError)
"""What reading an answer raises that is none: whoever took over a decoder may send anything."""

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
        """End every process, also those at work: whoever waits for one gets WorkerDiedError."""
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
            WorkerDiedError: no process gets ready, or all were ended; no image is to blame.
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
                    if self._is_closed:
                        raise self._over() from error
                    if is_last or status not in FROM_OUTSIDE:
                        raise DecoderCrashedError(
                            f"the process that decoded this image {exit_words(status)}; keep the image from people's "
                            "viewers until it is known why"
                        ) from error
                except ImageError:
                    raise
                except NONSENSE as error:
                    self._end(child)
                    child = None
                    raise DecoderCrashedError(
                        f"the process that decoded this image answered what means nothing ({type(error).__name__}); "
                        "keep the image from people's viewers until it is known why"
                    ) from error
                except BaseException:  # it was left in the middle of an image
                    self._end(child)
                    child = None
                    raise
            raise AssertionError  # the second try returns or raises
        finally:
            if child is not None and child not in self._alive:
                child = None
            self._idle.put(child)

    def _start(self) -> Child:
        """Start a process and wait until it is ready, which no image is charged with."""
        with self._lock:
            if self._is_closed:
                raise self._over()
            try:
                child = Child(MODULE, is_trusted=False)
            except OSError as error:
                raise WorkerDiedError(
                    f"no process could be started to decode in ({error}); allow this user more processes or memory"
                ) from error
            self._alive.add(child)
        try:
            send(child.channel, {"preprocessing": asdict(self._preprocessing), "max_pixels": self._max_pixels})
            if not child.channel.poll(START_S):
                raise TimeoutError(f"not ready within {START_S:.0f} s")
            receive(child.channel)
        except LOST as error:
            status = self._end(child)
            raise WorkerDiedError(
                f"a process to decode in {exit_words(status)} before it had an image; what it wrote is in the log above"
            ) from error
        return child

    def _over(self) -> WorkerDiedError:
        return WorkerDiedError("decoding was ended while an image waited for it; the next attempt decodes it")

    def _end(self, child: Child, patience_s: float = 0.0) -> int:
        with self._lock:
            self._alive.discard(child)
        status = child.exit_status(patience_s)
        child.close()
        return status

    def _ask(self, child: Child, data: bytes) -> Pixels:
        child.channel.send_bytes(data)
        asked = self._answer(child)
        if "reserve" not in asked:
            raise self._refusal(asked)
        with ExitStack() as held:
            try:
                held.enter_context(self._reserve(int(asked["reserve"])))
            except ImageError:
                send(child.channel, {"go": False})
                self._answer(child)
                raise
            send(child.channel, {"go": True})
            answer = self._answer(child)
            if "code" in answer:
                raise self._refusal(answer)
            raw = child.channel.recv_bytes(self._preprocessing.height * self._preprocessing.width * 3)
        return np.frombuffer(raw, np.uint8).reshape(self._preprocessing.height, self._preprocessing.width, 3)

    def _answer(self, child: Child) -> dict[str, Any]:
        if not child.channel.poll(self._timeout_s):
            self._end(child)  # before its memory is given to somebody else
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
