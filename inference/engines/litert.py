"""engines: LiteRT with XNNPACK, the CPU's engine. Adapter; holds native memory."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from inference.engines.scores import ROW_SUM_TOLERANCE, ModelFacts, check_answer_shape, check_pixels, to_scores
from inference.errors import ModelExecutionError
from inference.types import LabelMap, ModelId, PixelBatch, Preprocessing, Scores

MOST_INTERPRETERS: Final = 4
"""Each keeps the weights once more, as its kernels want them, and what a call works on: about 70 MB for EfficientNet-
Lite0. With more cores each gets several threads."""


QUANTISED_SUM_TOLERANCE: Final = 0.5
"""How far probabilities in steps of 1/256 may sum from 1: of a thousand classes most are rounded to nothing."""


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
            path: The ``.tflite`` file; input (batch, height, width, 3) of uint8, 0 to 255, or float32, 0 to 1. With
                ``facts.litert_input`` it is float32, uint8 or int8 as that says, quantised as the file says.
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
        return to_scores(answer, self._facts, len(pixels), tolerance=interpreter.tolerance)

    def answer(self, pixels: PixelBatch) -> NDArray[Any]:
        """Return what the model answers to a batch, before it is read as scores.

        Raises:
            ModelExecutionError: the engine failed.
        """
        check_pixels(pixels, self._facts)
        with self._one() as interpreter:
            return interpreter.answer(pixels)

    @contextmanager
    def _one(self) -> Iterator[_Loaded]:
        one = self._free.get()
        try:
            yield one
        finally:
            self._free.put(one)


def _feed_of(
    dtype: np.dtype[Any], scaling: tuple[float, float] | None, quantisation: tuple[float, int]
) -> Callable[[PixelBatch], NDArray[Any]]:
    """Return what makes a model's input of pixels."""
    if scaling is None:
        return _unit_floats if dtype == np.float32 else np.ascontiguousarray
    mean, scale = scaling
    # Every value that a pixel can have is worked out once.
    table: NDArray[Any] = (np.arange(256, dtype=np.float64) - mean) / scale
    if dtype != np.float32:
        step, zero = quantisation
        limits = np.iinfo(dtype)
        if step:
            table = np.clip(np.rint(table / step) + zero, limits.min, limits.max)
        elif dtype == np.uint8:
            table = np.arange(256)  # no steps are named: they are the pixels' own
        else:
            table = np.arange(256) - 128
    table = table.astype(dtype)

    def feed(pixels: PixelBatch) -> NDArray[Any]:
        return table[pixels]

    return feed


def _has_steps(interpreter: Interpreter) -> bool:
    """Return whether any part of a model works in 8 bits, so that its answers come in steps, even if as floats."""
    return any(tensor["quantization"][0] for tensor in interpreter.get_tensor_details())


def _unit_floats(pixels: PixelBatch) -> NDArray[Any]:
    return pixels / np.float32(255.0)


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
        shape = tuple(int(side) for side in inputs[0]["shape_signature"])  # -1 where any number will do
        dtype = np.dtype(inputs[0]["dtype"])
        allowed = ("u1", "f4") if facts.litert_input is None else ("u1", "i1", "f4")
        fits = len(shape) == 4 and all(a in {-1, b} for a, b in zip(shape[1:], facts.batch_shape(1)[1:], strict=True))
        if len(inputs) != 1 or len(outputs) != 1 or not fits or dtype not in allowed:
            raise ModelExecutionError(
                f"{path} of {facts.model_id} takes {len(inputs)} inputs, the first {dtype} {shape}, and has "
                f"{len(outputs)} outputs; expected one uint8 or float32 input {facts.batch_shape(1)} and one output"
            )
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self._feed = _feed_of(dtype, facts.litert_input, inputs[0]["quantization"])
        self._step, self._zero = outputs[0]["quantization"]
        self.tolerance = ROW_SUM_TOLERANCE
        if facts.output == "probabilities" and _has_steps(self._interpreter):
            self.tolerance = QUANTISED_SUM_TOLERANCE
        # A file that was made for one size of batch often has that size in its reshapes too: it is called with that.
        self._fixed_size = shape[0] if shape[0] > 0 and facts.litert_input is not None else None
        self._batch_size = self._fixed_size or 0
        if self._fixed_size:
            self._allocate(path)
        # Judged by its shape alone: a sound model may have no finite answer to an image of one colour.
        blank = np.zeros(facts.batch_shape(batch_size), np.uint8)
        check_answer_shape(self.answer(blank), facts, len(blank))

    @property
    def _is_exact(self) -> bool:
        """Whether the model answers in floats and not in steps of its own."""
        return not self._step

    def _allocate(self, path: Path) -> None:
        try:
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelExecutionError(
                f"LiteRT cannot prepare {path} of {self._facts.model_id}: {error}; convert the model again"
            ) from error

    def answer(self, pixels: PixelBatch) -> NDArray[Any]:
        """Return what the model answers to a batch: floats as they come, steps of a quantised output as their values.

        Raises:
            ModelExecutionError: the engine failed.
        """
        size = self._fixed_size
        if size is None or len(pixels) == size:
            return self._invoke(pixels)
        answers = []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            padding = np.zeros((size - len(part), *part.shape[1:]), np.uint8)
            answers.append(self._invoke(np.concatenate([part, padding]))[: len(part)])
        return np.concatenate(answers)

    def _invoke(self, pixels: PixelBatch) -> NDArray[Any]:
        try:
            if len(pixels) != self._batch_size:
                # A fraction of a millisecond: the packed weights stay. So the last, smaller batch needs no padding.
                self._interpreter.resize_tensor_input(self._input, list(pixels.shape), strict=True)
                self._interpreter.allocate_tensors()
                self._batch_size = len(pixels)
            self._interpreter.set_tensor(self._input, self._feed(pixels))
            self._interpreter.invoke()
            answer: NDArray[Any] = self._interpreter.get_tensor(self._output)
            if not self._is_exact:
                answer = (answer.astype(np.float32) - np.float32(self._zero)) * np.float32(self._step)
        except (ValueError, RuntimeError) as error:
            self._batch_size = self._fixed_size or 0
            raise ModelExecutionError(
                f"LiteRT failed on {len(pixels)} images with {self._facts.model_id}: {error}; if memory is short, "
                "lower NIGHTLABEL_BATCH_SIZE"
            ) from error
        return answer
