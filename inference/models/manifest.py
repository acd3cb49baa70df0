"""models: what is known of a model version, as JSON beside its files. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from inference.engines.scores import ModelFacts, OutputKind
from inference.errors import ModelFilesError
from inference.types import Label, LabelMap, ModelId, Preprocessing

MANIFEST_NAME = "manifest.json"

EngineName: TypeAlias = Literal["litert", "tensorflow"]
Precision: TypeAlias = Literal["float32", "int8"]
NamePart: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256Hex: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Text: TypeAlias = Annotated[str, StringConstraints(min_length=1)]


_CAME_LATER: Final = ("golden_agreement", "precision", "origin", "litert_input", "litert_refusal")
"""Fields of ``Manifest`` that the first code to read it did not know."""

MAX_LABEL_BYTES = 1_000
"""Names are in indexes of the ledger, and Postgres takes some 2,700 bytes in an entry of one."""


_NOTES: Final = frozenset(
    {"agreement", "golden_agreement", "licence", "litert_refusal", "made_with", "origin", "source"}
)
"""Fields that change neither files nor answers; whatever is no note counts as changing them."""
_COLUMNS: Final = frozenset({"engines", "files", "format", "labels", "name", "task", "version"})
"""Fields that the registry keeps by themselves, or that are the same in every manifest."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputScale(_Strict):
    """How a pixel enters the network: ``(pixel - mean) / scale``, pixel 0 to 255; done inside the artefacts."""

    mean: float
    scale: PositiveFloat


class Agreement(_Strict):
    """How far the converted model is from the original, measured when it was made."""

    inputs: PositiveInt
    """Real photos, or crops of them."""
    equal_top1: NonNegativeInt
    """Inputs for which both give the same label."""
    max_difference: NonNegativeFloat
    """Largest difference of any probability."""


INSTALLED_PHOTOS: Final = "photos of installed wheels"
"""What ``Origin.calibration`` says where no photos were given."""


class Origin(_Strict):
    """Where a registered model's files come from, and what was said of them; the bundled model has none."""

    sha256: Sha256Hex
    """Of the archive, file or folder that was registered."""
    kind: Literal["saved_model", "keras", "litert"]
    family: str | None = None
    """The family that the preprocessing was taken from; None where it was given option by option."""
    calibration: str | None = None
    """What the activations of an int8 version were measured on."""


class Manifest(_Strict):
    """A model version: identity, files, preprocessing, label map and engine artefacts."""

    format: Literal[1] = 1
    name: NamePart
    version: NamePart
    task: Literal["image-classification"] = "image-classification"
    source: Text
    """Where the weights come from, exact enough to find them again."""
    licence: Text
    preprocessing: Preprocessing
    input_scale: InputScale
    output: OutputKind
    background_columns: NonNegativeInt = 0
    """Leading output columns without a label; ImageNet modules of TensorFlow Hub have one."""
    engines: dict[EngineName, Text]
    """Engine -> its artefact, a file or a folder, relative to the manifest."""
    made_with: dict[str, str]
    """What made the artefacts -> its version."""
    agreement: Agreement | None = None
    """Of LiteRT with the SavedModel, on photos of installed wheels; None where nothing was converted."""
    golden_agreement: Agreement | None = None
    """Likewise on photos that were given at registration."""
    precision: Precision = "float32"
    origin: Origin | None = None
    litert_input: InputScale | None = None
    """How a pixel enters the LiteRT artefact, where that is not done inside it: of a registered ``.tflite`` file, and
    in 8 bits. A quantised input turns the value into its own steps."""
    litert_refusal: Text | None = None
    """Why there is no artefact for LiteRT, in words."""
    files: dict[Text, Sha256Hex]
    """Every file but the manifest -> its SHA-256; relative, with ``/``."""
    labels: LabelMap
    """The label of each output column after the background columns."""

    @property
    def model_id(self) -> ModelId:
        """Which model version this is."""
        return ModelId(self.name, self.version)

    @property
    def facts(self) -> ModelFacts:
        """What an engine's handle has to know."""
        fed = self.litert_input
        return ModelFacts(
            self.model_id,
            self.labels,
            self.preprocessing,
            self.output,
            self.background_columns,
            None if fed is None else (fed.mean, fed.scale),
        )

    def files_of(self, engine: EngineName) -> dict[str, str]:
        """Return the files of one engine's artefact -> SHA-256.

        Raises:
            ModelFilesError: the model has no artefact for this engine.
        """
        artefact = self.engines.get(engine)
        if artefact is None:
            raise ModelFilesError(
                f"{self.model_id} has no artefact for {engine}, only for {', '.join(self.engines)}; use one of these "
                "or register a version that was converted for it"
            )
        return {
            path: digest for path, digest in self.files.items() if path == artefact or path.startswith(f"{artefact}/")
        }

    @property
    def treatment(self) -> dict[str, Any]:
        """What is done to the pixels before the model sees them and what its output means, field by field as JSON."""
        return self.model_dump(mode="json", exclude=set(_NOTES | _COLUMNS))

    def difference(self, other: Manifest) -> str | None:
        """Say in words what another manifest of this version has else that changes files or answers; None if nothing.

        Source, licence, versions of converters and the measured agreement are notes: they may differ.
        """
        for path in sorted({*self.files, *other.files}):
            mine, its = self.files.get(path), other.files.get(path)
            if mine != its:
                return f"{path} has SHA-256 {mine}, the new one's is {its}"
        for name in type(self).model_fields:
            if name not in _NOTES and getattr(self, name) != getattr(other, name):
                return f"it has other {name.replace('_', ' ')} than the new one"
        return None

    def to_json(self) -> str:
        """Return the manifest as JSON text, the same for equal manifests.

        Fields that came later are left out where they say nothing, so that older code reads the manifest as well.
        """
        fields = type(self).model_fields
        silent = {name for name in _CAME_LATER if getattr(self, name) == fields[name].default}
        return self.model_dump_json(indent=1, exclude=silent) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, origin: str) -> Manifest:
        """Read a manifest.

        Args:
            text: JSON.
            origin: Where it comes from, for the error.

        Raises:
            ModelFilesError: not a manifest; names the first field that is wrong.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "the whole text"
            found = re.sub(r"\s+", " ", str(first.get("input")))[:60]
            raise ModelFilesError(
                f"{origin} is not a model manifest: {field} is {found!r}, {first['msg']}; register the model again"
            ) from error

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        size = self.preprocessing
        if size.height < 1 or size.width < 1 or not 0 < size.crop_fraction <= 1:
            raise ValueError(
                f"preprocessing is {size.height} x {size.width} pixels of a crop of {size.crop_fraction}, expected at "
                "least 1 x 1 and a fraction above 0 and at most 1"
            )
        if not self.labels:
            raise ValueError("the label map is empty, expected a label for each output column")
        if any(not label.label_id or not label.name for label in self.labels):
            raise ValueError("the label map holds an empty name or id, expected both for each output column")
        longest = max(len(label.name.encode()) for label in self.labels)
        if longest > MAX_LABEL_BYTES:
            raise ValueError(
                f"the label map holds a name of {longest:,} bytes, expected at most {MAX_LABEL_BYTES:,} in each, since "
                "the results database finds images by them"
            )
        ids = [label.label_id for label in self.labels]
        if len(set(ids)) != len(ids):
            twice = next(label_id for label_id in ids if ids.count(label_id) > 1)
            raise ValueError(f"the label id {twice} stands twice in the label map, expected each once")
        for path in (*self.files, *self.engines.values()):
            parts = PurePosixPath(path)
            if parts.is_absolute() or ".." in parts.parts or "\\" in path or str(parts) != path:
                raise ValueError(f"the path {path!r} is not a plain relative one, expected a file beside the manifest")
        if not self.engines:
            raise ValueError("it names no engine artefact, expected at least one")
        for engine in self.engines:
            if not self.files_of(engine):
                raise ValueError(f"the artefact {self.engines[engine]!r} of {engine} has no file among its files")
        return self


def label_map(rows: list[tuple[str, str]]) -> LabelMap:
    """Return (label id, name) pairs in column order as a label map."""
    return tuple(Label(name=name, label_id=label_id) for label_id, name in rows)
