"""models: TensorFlow in a process of its own, for building and converting models; its parent never loads it.

The parent calls ``in_child`` and gets a manifest; ``python -m inference.models.tensorflow_child`` is the child. It runs
somebody else's model, which may abort the process, hang or use up the memory, so that it gets a time, and of the
environment nothing that is secret.
"""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any, Final

from inference.children import LOST, Child, exit_words, join_parent, receive, send
from inference.errors import InferenceError, ModelError, error_of
from inference.models.manifest import Manifest

logger = logging.getLogger(__name__)

MODULE: Final = "inference.models.tensorflow_child"

TASKS: Final = {
    "build_bundled": ("inference.models.bundled", "build"),
    "adopt": ("inference.models.adopting", "adopt"),
}
"""Name of a task -> module and function; it gets the parent's arguments by name, and ``progress``."""

_VARIABLES: Final = {
    "CUDA_VISIBLE_DEVICES": "-1",  # conversions are checked on the CPU, and a GPU may be busy
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "KERAS_BACKEND": "tensorflow",
}

_OF_THE_NETWORK: Final = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "ALL_PROXY", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
"""What fetching a handle may take of the environment."""

_LAST_BYTES: Final = 64 * 1024


def in_child(
    task: str,
    what: str,
    arguments: dict[str, Any],
    *,
    timeout_s: float,
    advice: str,
    progress: Callable[[str], None] | None = None,
    is_trusted: bool = False,
) -> Manifest:
    """Run one of ``TASKS`` in a child process and return the manifest that it made.

    Args:
        task: Which one.
        what: What is being made, for messages: ``building the bundled model X``.
        arguments: By name; JSON.
        timeout_s: Seconds after which the child is ended.
        advice: What to do when it fails for a reason that nobody foresaw.
        progress: Told what is being done.
        is_trusted: Whether the child gets this process's whole environment.

    Raises:
        ModelError: it was killed, took too long or failed.
        InferenceError: as the task raised it.
    """
    end = time.monotonic() + timeout_s
    with (
        tempfile.TemporaryFile() as output,
        Child(MODULE, is_trusted=is_trusted, allowed=_OF_THE_NETWORK, variables=_VARIABLES, output=output) as child,
    ):
        try:
            send(child.channel, {"task": task, "arguments": arguments})
            while child.channel.poll(max(0.0, end - time.monotonic())):
                answer = receive(child.channel)
                if "progress" in answer:
                    if progress is not None:
                        progress(answer["progress"])
                elif "code" in answer:
                    raise error_of(answer["code"], answer["message"])
                else:
                    return Manifest.from_json(answer["manifest"], origin=f"the answer to {what}")
        except LOST as error:
            raise _died(child.exit_status(10.0), what, advice, output) from error
        raise ModelError(
            f"{what} took more than {timeout_s:.0f} s, expected about 20; try again on a machine that is less busy"
        )


def _died(status: int, what: str, advice: str, output: IO[bytes]) -> ModelError:
    output.seek(0, 2)
    output.seek(max(0, output.tell() - _LAST_BYTES))
    said = output.read().decode(errors="replace").strip()
    logger.debug("The process of %s said:\n%s", what, said)
    if status < 0:
        how = exit_words(status).removeprefix("was killed by ")
        return ModelError(f"{what} was ended by {how}; it needs about 1.5 GB of memory, try again with more")
    last = next(reversed(said.splitlines()), "no message")
    return ModelError(f"{what} failed with status {status}: {last[:300]}; {advice}")


def main() -> None:
    """Do the one task that the parent asks for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends this process
    channel = join_parent(sys.argv[1:])
    try:
        order = receive(channel)
        module, function = TASKS[order["task"]]
        try:
            make: Callable[..., Manifest] = getattr(importlib.import_module(module), function)
            manifest = make(progress=lambda words: send(channel, {"progress": words}), **order["arguments"])
        except InferenceError as error:
            send(channel, {"code": error.code, "message": str(error)})
        else:
            send(channel, {"manifest": manifest.to_json()})
    except LOST:
        return


if __name__ == "__main__":
    main()
