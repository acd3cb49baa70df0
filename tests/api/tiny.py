"""A model of three labels for the API's tests, and the real server around it as a process of its own."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np

from inference.errors import ModelExecutionError, ModelFilesError
from inference.types import Label, LabelMap, ModelId, PixelBatch, Preprocessing, Scores

LABELS = (Label("cat", "n1"), Label("dog", "n2"), Label("crane", "n3"))


class TinyHandle:
    """Scores by the first pixel's red: full is a cat, none is a dog, so that a mix-up between images would show.

    ``calls`` lists the batch sizes it was asked for; ``hold`` stops it until it is set; two callers at
    once are an error.
    """

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.hold = threading.Event()
        self.hold.set()
        self.is_broken = False
        self._busy = threading.Lock()

    @property
    def model_id(self) -> ModelId:
        return ModelId("tiny", "7")

    @property
    def labels(self) -> LabelMap:
        return LABELS

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(height=8, width=8, crop_fraction=1.0, resize_filter="bilinear")

    @property
    def engine(self) -> str:
        return "tiny"

    @property
    def best_batch_size(self) -> int:
        return 4

    @property
    def parallel_calls(self) -> int:
        return 1

    def predict(self, pixels: PixelBatch) -> Scores:
        if not self._busy.acquire(blocking=False):
            raise ModelExecutionError("two callers at once")
        try:
            self.calls.append(len(pixels))
            self.hold.wait(30)
            if self.is_broken:
                raise ModelExecutionError("no memory at /secret/path")
            red = pixels[:, 0, 0, 0].astype(np.float32) / np.float32(255)
            cat, dog = red * np.float32(0.9), (1 - red) * np.float32(0.9)
            return np.stack([cat, dog, 1 - cat - dog], axis=1).astype(np.float32)
        finally:
            self._busy.release()


def main() -> None:
    """Serve as the command line does, with settings from the environment."""
    import os

    from inference.api.server import serve
    from inference.errors import InferenceError
    from inference.settings import read_settings

    def load() -> TinyHandle:
        time.sleep(float(os.environ.get("TINY_LOAD_S", "0")))
        if os.environ.get("TINY_FAILS"):
            raise ModelFilesError("the files are damaged; register the model again")
        return TinyHandle()

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        serve(read_settings(), load)
    except InferenceError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
