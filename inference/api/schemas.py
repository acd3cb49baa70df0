"""REST schemas: what goes over the wire, mapped from the library's words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from inference.types import Classified, DeadLetter, ModelId, Prediction, ScoredLabel


def shortest_score(score: float) -> float:
    """Return a float32 score as the number with the fewest digits that still names it.

    Postgres prints a ``real`` the same way, so that the digits of an answer are those of the ledger.

    Args:
        score: A float32 value, 0 to 1, widened to a Python float.
    """
    import numpy as np

    return float(str(np.float32(score)))


class ServedModel(BaseModel):
    """The model version that answered."""

    name: str = Field(examples=["efficientnet-lite0"])
    version: str = Field(examples=["1"])

    @classmethod
    def of(cls, model_id: ModelId) -> ServedModel:
        """Map a model's identity."""
        return cls(name=model_id.name, version=model_id.version)


class TopLabel(BaseModel):
    """A label with its probability."""

    label: str = Field(description="Name of the class; names may repeat.", examples=["tabby"])
    label_id: str = Field(description="Stable id of the class; ids never repeat.", examples=["n02123045"])
    score: float = Field(ge=0, description="Probability, 0 to 1, a float32.", examples=[0.73421])

    @classmethod
    def of(cls, scored: ScoredLabel) -> TopLabel:
        """Map a scored label."""
        return cls(label=scored.label.name, label_id=scored.label.label_id, score=shortest_score(scored.score))


class ClassifiedImage(TopLabel):
    """An image that got its label."""

    name: str = Field(description="File name of the upload.", examples=["cat.jpg"])
    top: list[TopLabel] = Field(description="Best first, at most `top_k`.")


class ImageProblem(BaseModel):
    """Why one image has no label."""

    code: str = Field(description="Stable; the same codes as the nightly job's dead letters.", examples=["truncated"])
    message: str


class FailedImage(BaseModel):
    """An image that could not be classified; the others of the request are not affected."""

    name: str = Field(description="File name of the upload.", examples=["half.jpg"])
    error: ImageProblem


class Classification(BaseModel):
    """The answer to one request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": {"name": "efficientnet-lite0", "version": "1"},
                    "results": [
                        {
                            "name": "cat.jpg",
                            "label": "tabby",
                            "label_id": "n02123045",
                            "score": 0.73421,
                            "top": [
                                {"label": "tabby", "label_id": "n02123045", "score": 0.73421},
                                {"label": "Egyptian cat", "label_id": "n02124075", "score": 0.15022},
                            ],
                        },
                        {
                            "name": "half.jpg",
                            "error": {"code": "truncated", "message": "the JPEG ends before its pixels do"},
                        },
                    ],
                }
            ]
        }
    )

    model: ServedModel
    results: list[ClassifiedImage | FailedImage] = Field(description="One for each image, in the request's order.")

    @classmethod
    def of(cls, model_id: ModelId, names: Sequence[str], outcomes: Sequence[Classified]) -> Classification:
        """Map outcomes, in order, under the names that the caller gave them."""
        return cls(
            model=ServedModel.of(model_id),
            results=[result_of(name, outcome) for name, outcome in zip(names, outcomes, strict=True)],
        )


def result_of(name: str, outcome: Classified) -> ClassifiedImage | FailedImage:
    """Map one outcome."""
    match outcome:
        case Prediction():
            best = TopLabel.of(outcome.top[0])
            return ClassifiedImage(name=name, top=[TopLabel.of(scored) for scored in outcome.top], **best.model_dump())
        case DeadLetter():
            return FailedImage(name=name, error=ImageProblem(code=outcome.error_code, message=outcome.message))


class Health(BaseModel):
    """An answer of a health route."""

    status: Literal["live", "ready"]


class Problem(BaseModel):
    """An error, as RFC 9457 has it, with a stable ``code``."""

    type: str = "about:blank"
    title: str = Field(examples=["Content Too Large"])
    status: int = Field(examples=[413])
    code: str = Field(description="Stable; the table is in docs/errors.md.", examples=["request_too_large"])
    detail: str
