"""models: somebody's SavedModel, Keras or LiteRT file -> the artefacts and the manifest of a version.

Runs in ``tensorflow_child``; TensorFlow is loaded when a SavedModel or Keras file wants it. What comes out takes images
as every other version does: the SavedModel has TensorFlow Hub's common signature (float32, 0 to 1), and what is
converted for LiteRT takes pixels (uint8, 0 to 255). Both are asked for real photos before anything is believed.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inference.decoding import decode_image
from inference.engines.scores import ROW_SUM_TOLERANCE
from inference.engines.tensorflow import Scoring, import_tensorflow, scoring_of
from inference.errors import ImageError, ModelConversionError, ModelExecutionError, ModelSourceError
from inference.models.agreement import INT8, halves, measure_agreement, photo_crops
from inference.models.convert import LITERT_NAME, SAVED_MODEL_NAME
from inference.models.families import UNIT, Settled, settle
from inference.models.graphs import check_graph
from inference.models.hub import fetch_handle
from inference.models.labels import fit_labels
from inference.models.manifest import INSTALLED_PHOTOS, InputScale, Manifest, Origin
from inference.models.resolve import load_handle
from inference.models.source_files import (
    HUB_FORMAT_FILE,
    FetchedSource,
    Progress,
    SourceKind,
    check_digest,
    keep_saved_model,
    recognise,
    without_query,
)
from inference.models.store import hash_file, hash_files
from inference.ports import ModelHandle
from inference.types import Label, LabelMap, PixelBatch, Preprocessing, RegistrationRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

ADOPTER_VERSION: Final = "2"
"""Rises when this module makes other artefacts of the same source."""

_COLOURS: Final = 3
_SIGNATURE: Final = "serving_default"


def adopt(
    *,
    folder: str,
    incoming: str,
    request: dict[str, Any],
    labels: list[list[str]],
    source: str,
    handle: str | None,
    fetched: dict[str, str] | None,
    golden: list[str],
    calibration: list[str],
    progress: Progress,
) -> Manifest:
    """Make a version out of a source; a task of ``tensorflow_child``.

    Args:
        folder: Empty; the artefacts go there.
        incoming: Where the source is, or is fetched to.
        request: ``types.RegistrationRequest``, as JSON.
        labels: [label id, name] in the order of the output columns, a background perhaps first.
        source: What the manifest is to say of where the model comes from.
        handle: What tensorflow-hub is to resolve; None when the source was ``fetched``.
        fetched: ``source_files.FetchedSource``, as JSON.
        golden: Paths of photos on which conversion and original have to agree as well.
        calibration: Paths of photos to measure activations on; none for those of the installed wheels.
        progress: Told what is being done.

    Raises:
        ModelSourceError: the source cannot be fetched, or is no model that can be used.
        SettingsError: what was said of it does not fit it.
        ModelConversionError: the conversion gives other answers than the original.
        ModelExecutionError: the model cannot be loaded or answers with what cannot be right, such as NaN.
        ModelError: TensorFlow is not installed.
    """
    wanted = RegistrationRequest(
        **{
            **request,
            "input_size": _pair(request["input_size"]),
            "input_scale": _pair(request["input_scale"]),
        }
    )
    if handle is not None:
        found = _fetch(handle, Path(incoming), wanted.sha256, progress)
    elif fetched is not None:
        kind: SourceKind = fetched["kind"]  # type: ignore[assignment]
        found = FetchedSource(kind, Path(fetched["path"]), fetched["sha256"])
    else:
        raise TypeError("neither a handle nor fetched files were given")
    adoption = _Adoption(
        Path(folder),
        wanted,
        tuple(Label(name=name, label_id=label_id) for label_id, name in labels),
        source,
        found,
        progress,
    )
    return adoption.litert() if found.kind == "litert" else adoption.tensorflow(golden, calibration)


def _pair(value: Sequence[Any] | None) -> tuple[Any, Any] | None:
    return None if value is None else (value[0], value[1])


def _fetch(handle: str, incoming: Path, sha256: str | None, progress: Progress) -> FetchedSource:
    given = incoming / "given"
    digest = fetch_handle(handle, given, progress)
    check_digest(digest, sha256, without_query(handle))
    return recognise(given, incoming, digest, without_query(handle))


@dataclass(frozen=True, slots=True)
class _Adoption:
    """One source on its way to a version."""

    folder: Path
    request: RegistrationRequest
    labels: LabelMap
    source: str
    found: FetchedSource
    progress: Progress

    def litert(self) -> Manifest:
        """Take a ``.tflite`` file as it is."""
        if self.request.int8:
            raise ModelSourceError(
                f"{self.source} is a LiteRT file, which cannot be quantised here; give the SavedModel or .keras file "
                "that it was made of"
            )
        shape, columns = _shape_of_litert(self.found.path, self.source)
        settled = settle(self.request, (shape[1], shape[2]), columns)
        shutil.move(self.found.path, self.folder / LITERT_NAME)
        manifest = self._manifest(settled, self._fitting(settled, columns), {"litert": LITERT_NAME}, {})
        mean, scale = settled.input_scale
        manifest = manifest.model_copy(update={"litert_input": InputScale(mean=mean, scale=scale)})
        self.progress("asking LiteRT")
        handle = load_handle(manifest, self.folder, "litert")
        _check_answers(handle, photo_crops(manifest.preprocessing), manifest)
        return manifest

    def tensorflow(self, golden: Sequence[str], calibration: Sequence[str]) -> Manifest:
        """Load with TensorFlow, keep or export a SavedModel, convert for LiteRT and compare."""
        self.progress("loading TensorFlow")
        tf = import_tensorflow()
        self.progress("reading the model")
        network = _network_of(tf, self.found, self.source)
        settled = settle(self.request, network.size, network.columns)
        module = _Module(tf, network, settled)
        columns = network.columns or module.columns()
        if network.columns is None:
            settled = settle(self.request, network.size, columns)
        labels = self._fitting(settled, columns)

        saved = self.folder / SAVED_MODEL_NAME
        if network.is_common and settled.input_scale == UNIT:
            keep_saved_model(self.found.path, saved)
        else:
            self.progress("exporting the SavedModel")
            module.save(saved, settled.output)
        made_with = {"nightlabel-adopter": ADOPTER_VERSION, "tensorflow": tf.__version__}
        reference = self._manifest(settled, labels, {"tensorflow": SAVED_MODEL_NAME}, made_with)
        self.progress("asking TensorFlow")
        original = load_handle(reference, self.folder, "tensorflow")
        pixels = photo_crops(reference.preprocessing)
        _check_answers(original, pixels, reference)

        self.progress("converting for LiteRT" + (" in 8 bits" if self.request.int8 else ""))
        measured = None
        if self.request.int8 and calibration:
            measured = _decoded(calibration, reference.preprocessing)
            golden = _without(golden, calibration)
        elif self.request.int8:
            measured, pixels = halves(reference.preprocessing)
        try:
            (self.folder / LITERT_NAME).write_bytes(module.convert(measured))
            engines = {"litert": LITERT_NAME} if self.request.int8 else {"litert": LITERT_NAME, **reference.engines}
            manifest = self._manifest(settled, labels, engines, made_with)
            if self.request.int8:
                mean, scale = settled.input_scale
                fed = InputScale(mean=mean, scale=scale)
                manifest = manifest.model_copy(update={"litert_input": fed, "precision": "int8"})
            converted = _loaded(manifest, self.folder)
        except ModelConversionError as error:
            if self.request.int8:
                raise
            (self.folder / LITERT_NAME).unlink(missing_ok=True)
            self.progress(f"stays on TensorFlow: {error}")
            return reference.model_copy(update={"litert_refusal": str(error)})
        return self._compared(manifest, original, converted, pixels, golden)

    def _compared(
        self,
        manifest: Manifest,
        original: ModelHandle,
        converted: ModelHandle,
        pixels: PixelBatch,
        golden: Sequence[str],
    ) -> Manifest:
        """Measure how far the conversion is from the original, and refuse one that is too far."""
        limits = {"limits": INT8} if self.request.int8 else {}
        self.progress(f"comparing on {len(pixels)} inputs")
        update: dict[str, Any] = {"agreement": measure_agreement(original, converted, pixels, **limits)}
        if golden:
            self.progress(f"comparing on {len(golden)} golden photos")
            photos = _decoded(golden, manifest.preprocessing)
            update["golden_agreement"] = measure_agreement(original, converted, photos, **limits)
        if self.request.int8:
            shutil.rmtree(self.folder / SAVED_MODEL_NAME)
            update["files"] = hash_files(self.folder)
        return manifest.model_copy(update=update)

    def _fitting(self, settled: Settled, columns: int) -> LabelMap:
        return fit_labels(self.labels, columns, settled.background_columns, what=self.source)

    def _manifest(
        self, settled: Settled, labels: LabelMap, engines: dict[Any, str], made_with: dict[str, str]
    ) -> Manifest:
        mean, scale = settled.input_scale
        calibration = self.request.calibration or INSTALLED_PHOTOS
        try:
            return Manifest(
                name=self.request.name,
                version=self.request.version,
                source=self.source,
                licence=self.request.licence,
                preprocessing=settled.preprocessing,
                input_scale=InputScale(mean=mean, scale=scale),
                output=settled.output,
                background_columns=settled.background_columns,
                engines=engines,
                made_with=made_with,
                files=hash_files(self.folder),
                labels=labels,
                origin=Origin(
                    sha256=self.found.sha256,
                    kind=self.found.kind,
                    family=self.request.family,
                    calibration=calibration if self.request.int8 else None,
                ),
            )
        except ValueError as error:  # pydantic's; the label map is the only part that nobody has checked yet
            first = str(error).splitlines()[2:3] or [str(error)]
            raise ModelSourceError(f"{self.source} cannot be registered: {first[0].strip()}") from error


@dataclass(frozen=True, slots=True)
class _Network:
    """A model in TensorFlow, as it came."""

    original: Any
    """What owns the weights, or they themselves; exported and converted with the functions that use them."""
    score: Callable[[Any], Any]
    size: tuple[int | None, int | None]
    """(height, width) by its signature."""
    columns: int | None
    is_common: bool
    """Whether the files have a signature that the TensorFlow engine takes as it is."""


def _network_of(tf: ModuleType, found: FetchedSource, source: str) -> _Network:
    if found.kind == "keras":
        return _network_of_keras(found.path, source)
    is_hub_format = (found.path / HUB_FORMAT_FILE).exists()
    check_graph(found.path, source)
    try:
        # TensorFlow 1's Hub format keeps several graphs; the one to predict with has no tags.
        loaded = tf.saved_model.load(str(found.path), tags=[] if is_hub_format else None)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, tf.errors.OpError) as error:
        raise ModelSourceError(
            f"TensorFlow cannot load the SavedModel {source}: {_first_line(error)}; export it again"
        ) from error
    scoring = scoring_of(loaded, source)
    return _Network(loaded, scoring.score, _size_of(scoring, source), scoring.columns, not is_hub_format)


def _network_of_keras(path: Path, source: str) -> _Network:
    import keras

    named = path.with_suffix(".keras")
    path.rename(named)
    try:
        model = keras.saving.load_model(named, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises nearly everything there is for a file that is not right
        raise ModelSourceError(
            f"Keras cannot load {source}: {_first_line(error)}; save it again with Keras 3, layers of Keras' own only"
        ) from error
    inputs, outputs = (list(getattr(model, name, None) or ()) for name in ("inputs", "outputs"))
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelSourceError(
            f"{source} has {len(inputs)} inputs and {len(outputs)} outputs, expected one input of images and one "
            "output of logits or probabilities"
        )
    scoring = Scoring(
        lambda images: model(images, training=False),
        tuple(inputs[0].shape),
        str(inputs[0].dtype),
        outputs[0].shape[-1],
    )
    # Keras' own variables are not TensorFlow's, which an export and a conversion look for.
    weights = [variable.value for variable in model.variables]
    return _Network(weights, scoring.score, _size_of(scoring, source), scoring.columns, is_common=False)


def _size_of(scoring: Scoring, source: str) -> tuple[int | None, int | None]:
    """Return (height, width) by a model's signature, after checking that it takes images."""
    shape = scoring.input_shape
    if shape is None:
        return None, None
    fits = len(shape) == 4 and shape[3] in {None, _COLOURS}
    if not fits or scoring.input_dtype != "float32" or shape[0] is not None:
        sides = ", ".join("any" if side is None else str(side) for side in shape)
        raise ModelSourceError(
            f"{source} takes {scoring.input_dtype} of shape ({sides}), "
            "expected float32 (any, height, width, 3): a batch of any size; export it again with that signature"
        )
    return shape[1], shape[2]


class _Module:
    """A network behind the common signature, and behind one for pixels."""

    def __init__(self, tf: ModuleType, network: _Network, settled: Settled) -> None:
        self._tf = tf
        size = settled.preprocessing
        mean, scale = settled.input_scale
        self._shape = (None, size.height, size.width, _COLOURS)
        self._module = tf.Module()
        self._module.original = network.original

        def of_pixels(pixels: Any) -> Any:  # noqa: ANN401 - TensorFlow has no types
            values = tf.cast(pixels, tf.float32)
            return network.score(values / 255.0 if settled.input_scale == UNIT else (values - mean) / scale)

        def of_images(images: Any) -> Any:  # noqa: ANN401
            return network.score(images if settled.input_scale == UNIT else (images * 255.0 - mean) / scale)

        self._of_pixels, self._of_images, self._of_inputs = of_pixels, of_images, network.score
        self._mean, self._scale = mean, scale

    def columns(self) -> int:
        """Return the output columns, by asking for one grey image."""
        tf = self._tf
        grey = tf.fill((1, *self._shape[1:]), 0.5)
        try:
            answer = self._of_images(grey).numpy()
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise ModelExecutionError(
                f"the model fails on a grey image: {_first_line(error)}; export it again"
            ) from error
        return int(answer.shape[-1])

    def save(self, folder: Path, output: str) -> None:
        """Export with the common signature, callable as well."""
        tf = self._tf
        images = tf.TensorSpec(self._shape, tf.float32, name="images")
        module = self._module
        module.__call__ = tf.function(self._of_images, input_signature=[images], autograph=False)
        served = tf.function(
            lambda images: {output: self._of_images(images)}, input_signature=[images], autograph=False
        )
        try:
            tf.saved_model.save(module, str(folder), signatures={_SIGNATURE: served})
        except (OSError, ValueError, TypeError, KeyError, AssertionError, tf.errors.OpError) as error:
            raise ModelConversionError(
                f"TensorFlow cannot export the model again: {_first_line(error)}; export it yourself as a SavedModel "
                "that takes float32 images, 0 to 1"
            ) from error
        (folder / "fingerprint.pb").unlink(missing_ok=True)

    def _one_by_one(self, pixels: PixelBatch) -> Iterator[list[NDArray[np.float32]]]:
        """Yield pixels as the network wants them, an image at a time."""
        for number in range(len(pixels)):
            yield [((pixels[number : number + 1] - np.float32(self._mean)) / np.float32(self._scale))]

    def convert(self, calibration: PixelBatch | None) -> bytes:
        """Return the network as a LiteRT model that takes pixels, in 8 bits if there are photos to measure it on.

        In 8 bits its input has the steps that ``litert_input`` of the manifest and the file say together.

        Raises:
            ModelConversionError: LiteRT cannot express it.
        """
        tf = self._tf
        if calibration is None:
            spec = tf.TensorSpec(self._shape, tf.uint8, name="pixels")
            score: Callable[[Any], Any] = self._of_pixels
        else:
            # In 8 bits no scaling may be left in the graph: a division by 255 alone was measured to cost a quarter of
            # the labels. The steps of the input do it instead.
            spec = tf.TensorSpec(self._shape, tf.float32, name="inputs")
            score = self._of_inputs
        traced = tf.function(score, input_signature=[spec], autograph=False)
        try:
            concrete = traced.get_concrete_function()
            converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], self._module)
            if calibration is not None:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.representative_dataset = lambda: self._one_by_one(calibration)
                converter.inference_input_type = tf.uint8
            return bytes(converter.convert())
        except Exception as error:  # the converter raises its own kinds and plain ones, with pages of text
            logger.debug("The conversion failed", exc_info=error)
            raise ModelConversionError(_why_not(error)) from error


def _loaded(manifest: Manifest, folder: Path) -> ModelHandle:
    """Load what was converted.

    Raises:
        ModelConversionError: LiteRT cannot execute it.
    """
    try:
        return load_handle(manifest, folder, "litert")
    except ModelExecutionError as error:
        raise ModelConversionError(_why_not(error.__cause__ or error)) from error


def _why_not(error: BaseException) -> str:
    """Return in words why LiteRT cannot express a model, or execute what it was made into."""
    text = str(error)
    operations = sorted(set(re.findall(r"'(tf\.\w+)' op", text)))
    if operations:
        return f"LiteRT has no operation for {', '.join(operations[:5])}, so that only TensorFlow can execute the model"
    return f"the conversion for LiteRT failed ({_first_line(error)}), so that only TensorFlow can execute the model"


def _shape_of_litert(path: Path, source: str) -> tuple[tuple[int | None, ...], int]:
    """Return the shape of a LiteRT file's input, None where any number will do, and its output columns."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    except (ValueError, RuntimeError) as error:
        raise ModelSourceError(f"LiteRT cannot load {source}: {_first_line(error)}; convert it again") from error
    shape = [int(side) for side in inputs[0]["shape_signature"]] if inputs else []
    if len(inputs) != 1 or len(outputs) != 1 or len(shape) != 4 or shape[3] not in {-1, _COLOURS}:
        raise ModelSourceError(
            f"{source} has {len(inputs)} inputs, the first of shape {tuple(shape)}, and {len(outputs)} outputs; "
            "expected one input (batch, height, width, 3) and one output of logits or probabilities"
        )
    return tuple(None if side < 0 else side for side in shape), int(outputs[0]["shape"][-1])


def _check_answers(handle: Any, pixels: PixelBatch, manifest: Manifest) -> None:  # noqa: ANN401 - answer is no port's
    """Refuse a model that answers real photos with what cannot be right, or with another kind of output than said.

    Raises:
        ModelExecutionError: NaN, another shape, or no probabilities where they were said to be.
        ModelSourceError: probabilities where logits were said to be; the same answer to every photo.
    """
    scores = handle.predict(pixels)
    answer: NDArray[Any] = handle.answer(pixels).astype(np.float64)
    sums = answer.sum(axis=1)
    is_distribution = answer.min() >= 0.0 and abs(sums - 1.0).max() <= ROW_SUM_TOLERANCE
    if manifest.output == "logits" and is_distribution and answer.shape[1] > 1:
        raise ModelSourceError(
            f"{manifest.source} is said to answer logits, and its answers to {len(pixels)} photos are probabilities "
            "that sum to 1; give --output probabilities"
        )
    if len(manifest.labels) > 1 and np.ptp(scores, axis=0).max() < 1e-6:
        raise ModelSourceError(
            f"{manifest.source} answers {len(pixels)} different photos alike; look at the scale that it was given, and "
            "whether its weights were saved with it"
        )


def _decoded(paths: Sequence[str], preprocessing: Preprocessing) -> PixelBatch:
    """Return the photos among files as pixels, decoded as a run would decode them."""
    pixels = []
    for path in paths:
        try:
            pixels.append(decode_image(Path(path).read_bytes(), preprocessing))
        except ImageError as error:
            logger.info("Left out a file that is no photo: %s", error)
    if not pixels:
        raise ModelSourceError(
            f"none of the {len(paths)} files given as photos can be decoded; give JPEG or PNG photos"
        )
    return np.stack(pixels)


def _without(paths: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return the files that are none of the others, by content."""
    known = {hash_file(Path(path)) for path in others}
    return [path for path in paths if hash_file(Path(path)) not in known]


def _first_line(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line[:300]
