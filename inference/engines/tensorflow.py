"""engines: TensorFlow, for any SavedModel with the common image-classification signature. Adapter; the GPU's engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.engines.scores import ModelFacts, check_answer_shape, check_pixels, to_scores
from inference.errors import ModelError, ModelExecutionError
from inference.types import LabelMap, ModelId, PixelBatch, Preprocessing, Scores

logger = logging.getLogger(__name__)

CPUINFO = Path("/proc/cpuinfo")


def import_tensorflow() -> ModuleType:
    """Import TensorFlow, quiet and with oneDNN only where that is faster, unless the environment says otherwise.

    For this kind of network oneDNN was measured to halve the time on CPUs with AVX-512, and to take a third more on
    one with AVX2 alone. It changes scores by some millionths.

    Raises:
        ModelError: it is not installed, or its libraries do not load.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1" if _has_avx512() else "0")
    try:
        import tensorflow
    except ImportError as error:
        raise ModelError(f"TensorFlow cannot be loaded: {error}; pip install 'nightlabel[tensorflow]'") from error
    return tensorflow  # type: ignore[no-any-return]  # TensorFlow has no types


def _has_avx512() -> bool:
    try:
        return "avx512f" in CPUINFO.read_text(encoding="utf-8").split()
    except OSError:  # another system than Linux does not say
        return False


def count_gpus() -> int:
    """Return how many GPUs TensorFlow sees in this process.

    Raises:
        ModelError: TensorFlow is not installed.
    """
    return len(import_tensorflow().config.list_physical_devices("GPU"))


class TensorFlowHandle:
    """A SavedModel in TensorFlow. Not thread-safe: one handle serves one caller at a time."""

    engine = "tensorflow"

    def __init__(self, folder: Path, facts: ModelFacts, *, threads: int) -> None:
        """Load the model and run it once, so that the first real batch is no slower than the next.

        Args:
            folder: The SavedModel; input float32 (batch, height, width, 3), 0 to 1.
            facts: What its manifest says.
            threads: Cores to use, at least 1; the first handle of a process decides.

        Raises:
            ModelError: TensorFlow is not installed.
            ModelExecutionError: TensorFlow cannot load the model, or its signature is another one.
        """
        self._tf = tf = import_tensorflow()
        self._facts = facts
        _configure_once(tf, threads)
        self.parallel_calls = 1
        self.best_batch_size = 32 if tf.config.list_logical_devices("GPU") else 8
        try:
            # Kept, because a function that was taken out of a SavedModel does not keep its variables alive.
            self._model = tf.saved_model.load(str(folder))
            self._function = self._fixed_function(scoring_of(self._model, f"{folder} of {facts.model_id}").score)
        except (OSError, ValueError, TypeError, KeyError, tf.errors.OpError) as error:
            raise ModelExecutionError(
                f"TensorFlow cannot load the SavedModel {folder} of {facts.model_id}: {_first_line(error)}; export it "
                "again with the common image-classification signature"
            ) from error
        # Judged by its shape alone: a sound model may have no finite answer to an image of one colour.
        check_answer_shape(self.answer(np.zeros(facts.batch_shape(1), np.uint8)), facts, 1)

    def _fixed_function(self, score: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Trace the model for one batch size only, so that nothing is traced or tuned again for the last batch."""
        tf = self._tf

        def from_pixels(pixels: Any) -> Any:  # noqa: ANN401 - TensorFlow has no types
            return score(tf.cast(pixels, tf.float32) / 255.0)

        spec = tf.TensorSpec(self._facts.batch_shape(self.best_batch_size), tf.uint8, name="pixels")
        traced = tf.function(from_pixels, input_signature=[spec], autograph=False)
        concrete: Callable[[Any], Any] = traced.get_concrete_function()
        return concrete

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
        """Score one batch of any size; the model is called with ``best_batch_size`` images, the last call padded.

        Args:
            pixels: uint8, shape (batch, height, width, 3), RGB, 0 to 255.

        Returns:
            float32, shape (batch, n_labels); each row sums to 1.

        Raises:
            ModelExecutionError: the engine failed, or its answer cannot be right.
        """
        return to_scores(self.answer(pixels), self._facts, len(pixels))

    def answer(self, pixels: PixelBatch) -> NDArray[Any]:
        """Return what the model answers to a batch, before it is read as scores.

        Raises:
            ModelExecutionError: the engine failed.
        """
        check_pixels(pixels, self._facts)
        size = self.best_batch_size
        answers = []
        try:
            for start in range(0, len(pixels), size):
                part = pixels[start : start + size]
                padding = np.zeros((size - len(part), *part.shape[1:]), np.uint8)
                full = self._function(self._tf.constant(np.concatenate([part, padding]))).numpy()
                if full.shape[:1] != (size,):
                    raise ModelExecutionError(
                        f"{self.model_id} answered with shape {full.shape} to {size} images; expected a row for each"
                    )
                answers.append(full[: len(part)])
        except (self._tf.errors.OpError, ValueError) as error:
            raise ModelExecutionError(
                f"TensorFlow failed on {len(pixels)} images with {self.model_id}: {_first_line(error)}; if memory is "
                "short, lower NIGHTLABEL_BATCH_SIZE"
            ) from error
        return np.concatenate(answers)


def _configure_once(tf: ModuleType, threads: int) -> None:
    """Set what TensorFlow accepts only before its first operation in a process; later handles find it set."""
    # TF32 would round the products of a float32 model to ten bits; reduced precision is a model version of its own.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        for device in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        logger.debug("TensorFlow was already running; its threads and memory growth stay as they are")


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a SavedModel is asked."""

    score: Callable[[Any], Any]
    """From a batch of images, in the range that the model wants, to its raw answer."""
    input_shape: tuple[int | None, ...] | None
    """None where any number will do; None as a whole where the model does not say."""
    input_dtype: str
    columns: int | None
    """Output columns, if the model says."""


def scoring_of(model: Any, what: str) -> Scoring:  # noqa: ANN401 - TensorFlow has no types
    """Find the signature of image classification in a loaded SavedModel.

    Args:
        model: From ``tf.saved_model.load``.
        what: Which one, for the message.

    Raises:
        ModelExecutionError: no signature of one image input and one output, and it cannot be called.
    """
    signatures = getattr(model, "signatures", {})
    name = next(
        (known for known in ("serving_default", "image_classification", "default") if known in signatures), None
    )
    if name is None:
        if not callable(model):
            raise ModelExecutionError(
                f"the SavedModel {what} has the signatures {sorted(signatures)} and cannot be "
                "called; expected serving_default with one image input and one output of logits or probabilities"
            )
        spec = _called_with(model)
        return Scoring(lambda images: model(images), _shape_of(spec), _dtype_of(spec), None)
    signature = signatures[name]
    specs = signature.structured_input_signature[1]
    inputs, outputs = sorted(specs), sorted(signature.structured_outputs)
    wanted = [output for output in ("logits", "probabilities") if output in outputs] or outputs
    if len(inputs) != 1 or len(wanted) != 1:
        raise ModelExecutionError(
            f"the signature {name} of {what} has the inputs {inputs} and outputs {outputs}; "
            "expected one input of images and one output of logits or probabilities"
        )
    spec, answer = specs[inputs[0]], _shape_of(signature.structured_outputs[wanted[0]])
    return Scoring(
        lambda images: signature(**{inputs[0]: images})[wanted[0]],
        _shape_of(spec),
        _dtype_of(spec),
        answer[-1] if answer else None,
    )


def _called_with(model: Any) -> Any:  # noqa: ANN401
    """Return the TensorSpec of a callable SavedModel's images, or None if it does not say."""
    for function in getattr(model.__call__, "concrete_functions", ()):
        for spec in function.structured_input_signature[0][:1]:
            if hasattr(spec, "shape"):
                return spec
    return None


def _shape_of(spec: Any) -> tuple[int | None, ...] | None:  # noqa: ANN401
    shape = getattr(spec, "shape", None)
    return None if shape is None or shape.rank is None else tuple(shape.as_list())


def _dtype_of(spec: Any) -> str:  # noqa: ANN401
    return "float32" if spec is None else str(spec.dtype.name)


def _first_line(error: Exception) -> str:
    """Return the first line of TensorFlow's many, or the error's kind if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
