"""Shards in a process of their own: it may die, hang or run out of memory, and its parent starts the next attempt.

What a scheduler does for tasks, this does where there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from pydantic import SecretStr

from inference.children import LOST, Child, exit_words, receive, send
from inference.errors import MemoryLimitError, RunInterruptedError, WorkerDiedError, error_of
from inference.settings import Settings
from inference.types import ShardStats, StageSeconds
from inference.watchdog import EXIT_HUNG

MODULE = "inference.worker"

PATIENCE_S = 30.0
"""How long a worker that was asked to end may take for what it is writing."""


class ShardWorker:
    """A process that classifies shards, one after the other; started again when it has died. A context manager.

    Args:
        settings: Go to the process over a pipe, so that no secret stands in a command line.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go()

    def start(self) -> None:
        """Start the process, which gets ready while its first shard is being planned; harmless when it runs."""
        self._started()

    def _started(self) -> Child:
        if self._child is None:
            self._child = Child(MODULE)
            values = {name: _plain(value) for name, value in self._settings.model_dump().items()}
            with suppress(*LOST):  # it is dead already, as its first shard will find
                send(self._child.channel, {"settings": values, "log_level": logging.getLogger().level})
        return self._child

    def run(self, run_id: UUID, shard_number: int, progress: Callable[[int], None]) -> ShardStats:
        """Classify what is left of a shard, as ``wiring.run_shard`` does.

        Args:
            run_id: The run.
            shard_number: Which of its shards.
            progress: Called with the number of images of each batch after it was written.

        Raises:
            WorkerDiedError: the process was killed, or its watchdog ended it.
            InferenceError: as ``wiring.run_shard``.
        """
        child = self._started()
        try:
            send(child.channel, {"run_id": str(run_id), "shard_number": shard_number})
            while "progress" in (answer := receive(child.channel)):
                progress(answer["progress"])
        except LOST as error:
            status = self._end()
            how = "was ended by its watchdog" if status == EXIT_HUNG else exit_words(status)
            raise WorkerDiedError(
                f"the process that worked on shard {shard_number} {how}; what it had recorded stays, and the next "
                "attempt goes on there"
            ) from error
        except BaseException:  # Ctrl-C: it is asked to end, and given the time to do so
            child.terminate()
            self._end(PATIENCE_S)
            raise
        if "code" in answer:
            problem = error_of(answer["code"], answer["message"])
            if isinstance(problem, RunInterruptedError):  # by nobody here
                self._end(PATIENCE_S)
                raise WorkerDiedError(
                    f"the process that worked on shard {shard_number} was asked to end by somebody else; what it had "
                    "recorded stays, and the next attempt goes on there"
                )
            if isinstance(problem, MemoryLimitError):
                self._let_go()  # the next shard gets a fresh one
            raise problem
        stats = answer["stats"]
        return ShardStats(**{**stats, "seconds": StageSeconds(**stats["seconds"])})

    def _let_go(self) -> None:
        """Let an idle process end by itself: nobody will ask it any more."""
        child, self._child = self._child, None
        if child is not None:
            child.close(PATIENCE_S)

    def _end(self, patience_s: float = 0.0) -> int:
        """End the process if there is one, and return how it ended."""
        child, self._child = self._child, None
        if child is None:
            return 0
        try:
            return child.exit_status(patience_s)
        finally:
            child.close()  # by force, if somebody does not want to wait


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a setting is
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value if value is None or isinstance(value, int | float | str) else str(value)
