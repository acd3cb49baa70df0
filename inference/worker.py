"""The process that ``supervising.ShardWorker`` starts: classifies the shards that it is told to, until nobody asks.

Entry point: ``python -m inference.worker DESCRIPTOR PARENT_PID``.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
import sys
from multiprocessing.connection import Connection
from types import FrameType
from uuid import UUID

from inference import wiring
from inference.children import LOST, join_parent, receive, send
from inference.errors import InferenceError, RunInterruptedError
from inference.logs import log_to_standard_error
from inference.ports import ModelHandle
from inference.settings import Settings
from inference.types import Device, ModelId

logger = logging.getLogger(__name__)


def serve(channel: Connection, settings: Settings) -> None:
    """Classify shards as they are asked for. An answer is progress, counts, or an error with its code."""
    handles: dict[tuple[ModelId, Device], ModelHandle] = {}
    store = wiring.open_store(settings)
    while True:
        order = receive(channel)
        try:
            with wiring.open_sink(settings) as sink:

                def load(model: ModelId, device: Device) -> ModelHandle:
                    if (model, device) not in handles:
                        handles[model, device] = wiring.load_model(model, sink, settings, device=device)
                    return handles[model, device]

                stats = wiring.run_shard(
                    UUID(order["run_id"]),
                    order["shard_number"],
                    store=store,
                    sink=sink,
                    settings=settings,
                    progress=lambda images: send(channel, {"progress": images}),
                    load=load,
                )
        except InferenceError as error:
            logger.debug("Failed", exc_info=error)
            send(channel, {"code": error.code, "message": str(error)})
        except KeyboardInterrupt:
            send(channel, {"code": RunInterruptedError.code, "message": "the worker was asked to end"})
            return
        except Exception as error:  # the parent tells it in a sentence
            logger.debug("Failed", exc_info=error)
            send(channel, {"code": InferenceError.code, "message": f"{type(error).__name__}: {error}"})
        else:
            send(channel, {"stats": dataclasses.asdict(stats)})


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # asked again while it writes what it has, it goes on writing
    signal.default_int_handler(number, frame)


def main() -> None:
    """Serve the process that started this one."""
    # It is the parent that hears Ctrl-C, and asks this one to end by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    channel = join_parent(sys.argv[1:])
    try:
        first = receive(channel)
        log_to_standard_error(first["log_level"])
        wiring.load_libraries()
        serve(channel, Settings(**first["settings"]))
    except (*LOST, KeyboardInterrupt):
        return


if __name__ == "__main__":
    main()
