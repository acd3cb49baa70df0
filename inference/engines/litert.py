"""engines: LiteRT with XNNPACK, the CPU's engine. Adapter; holds native memory."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from inference.engines.scores import ModelFacts, check_answer_shape, check_pixels, to_scores
from inference.errors import ModelExecutionError
from inference.types import LabelMap, ModelId, PixelBatch, Preprocessing, Scores

MOST_INTERPRETERS: Final = 4
"""Each keeps the weights once more, as its kernels want them, and what a call works on: about 70 MB for EfficientNet-
Lite0. With more cores each gets several threads."""


class LiteRTHandle:
    """A converted model in LiteRT interpreters. Safe to share between threads: each call has one for itself.

    A thread apiece: as measured on two cores, two interpreters with one thread each do a fifth more images than one
    with two. Threads that share a call wait for each other after every layer, and spin meanwhile, while whoever
    decodes has their core.
    """

    engine = "litert"
    best_batch_size = 4  # what a call works on stays in the core's own cache; 8 is a tenth slower, 16 a fifth

    def __init__(self, path: Path, facts: ModelFacts, *, threads: int, parallel_calls: int | None = None) -> None:
        """Load the model and run it once, so that the first real batch is no slower than the next.

        Args:
            path: The ``.tflite`` file; input uint8 or float32 (batch, height, width, 3), 0 to 255 or 0 to 1.
            facts: What its manifest says.
            threads: Cores to use, at least 1.
            parallel_calls: Among how many calls at a time they are shared out; None for what gives most images a
                second. 1 gives the shortest call.

        Raises:
            ModelExecutionError: the engine cannot load it, or its input is another one.
        """
        self._facts = facts
        self.parallel_calls = parallel_calls or min(threads, MOST_INTERPRETERS)
        each, more = divmod(threads, self.parallel_calls)
        with ThreadPoolExecutor(self.parallel_calls) as pool:
            loaded = [
                pool.submit(_Loaded, path, facts, threads=each + (number < more), batch_size=self.best_batch_size)
                for number in range(self.parallel_calls)
            ]
        self._free: queue.SimpleQueue[_Loaded] = queue.SimpleQueue()
        for one in loaded:
            self._free.put(one.result())

    @property
    def model_id(self) -> ModelId:
        """Which model this is."""
        return self._facts.model_id

    @property
    def labels(self) -> LabelMap:
        """The label of each column of the scores."""
        return self._facts.labels

    @property
    def preprocessing(self) -> Preprocessing:
        """What pixels ``predict`` expects."""
        return self._facts.preprocessing

    def predict(self, pixels: PixelBatch) -> Scores:
        """Score one batch of any size. More callers than ``parallel_calls`` wait for each other.

        The scores of an image do not depend on the other images of its batch, nor on the number of threads: they are
        equal bit by bit.

        Args:
            pixels: uint8, shape (batch, height, width, 3), RGB, 0 to 255.

        Returns:
            float32, shape (batch, n_labels); each row sums to 1.

        Raises:
            ModelExecutionError: the engine failed, or its answer cannot be right.
        """
        check_pixels(pixels, self._facts)
        with self._one() as interpreter:
            answer = interpreter.answer(pixels)
        return to_scores(answer, self._facts, len(pixels))

    @contextmanager
    def _one(self) -> Iterator[_Loaded]:
        one = self._free.get()
        try:
            yield one
        finally:
            self._free.put(one)


class _Loaded:
    """One interpreter with the model."""

    def __init__(self, path: Path, facts: ModelFacts, *, threads: int, batch_size: int) -> None:
        self._facts = facts
        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise ModelExecutionError(
                f"LiteRT cannot load {path} of {facts.model_id}: {error}; convert the model again"
            ) from error
        shape = tuple(int(side) for side in inputs[0]["shape"])
        dtype = np.dtype(inputs[0]["dtype"])
        if len(inputs) != 1 or len(outputs) != 1 or shape[1:] != facts.batch_shape(1)[1:] or dtype not in ("u1", "f4"):
            raise ModelExecutionError(
                f"{path} of {facts.model_id} takes {len(inputs)} inputs, the first {dtype} {shape}, and has "
                f"{len(outputs)} outputs; expected one uint8 or float32 input {facts.batch_shape(1)} and one output"
            )
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self._takes_floats = dtype == np.float32
        self._batch_size = 0
        # Judged by its shape alone: a sound model may have no finite answer to an image of one colour.
        blank = np.zeros(facts.batch_shape(batch_size), np.uint8)
        check_answer_shape(self.answer(blank), facts, len(blank))

    def answer(self, pixels: PixelBatch) -> NDArray[Any]:
        """Return what the model answers to a batch, as it comes."""
        try:
            if len(pixels) != self._batch_size:
                # A fraction of a millisecond: the packed weights stay. So the last, smaller batch needs no padding.
                self._interpreter.resize_tensor_input(self._input, list(pixels.shape), strict=True)
                self._interpreter.allocate_tensors()
                self._batch_size = len(pixels)
            given = pixels / np.float32(255.0) if self._takes_floats else np.ascontiguousarray(pixels)
            self._interpreter.set_tensor(self._input, given)
            self._interpreter.invoke()
            answer: NDArray[Any] = self._interpreter.get_tensor(self._output)
        except (ValueError, RuntimeError) as error:
            self._batch_size = 0
            raise ModelExecutionError(
                f"LiteRT failed on {len(pixels)} images with {self._facts.model_id}: {error}; if memory is short, "
                "lower NIGHTLABEL_BATCH_SIZE"
            ) from error
        return answer
