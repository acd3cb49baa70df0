"""models: a manifest -> its model card, Markdown for people who read it beside the files. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from inference.models.manifest import Manifest

CARD_NAME: Final = "MODEL_CARD.md"

_LABELS_SHOWN: Final = 5
_TOLD: Final = frozenset(
    {
        "agreement", "background_columns", "engines", "files", "format", "input_scale", "labels", "licence",
        "made_with", "name", "output", "preprocessing", "source", "task", "version",
    }
)  # fmt: skip
"""Fields of a manifest that have their own words below; others are told as they are, where they say something."""


def model_card(manifest: Manifest) -> str:
    """Return what a manifest says as Markdown, the same for equal manifests."""
    parts = [
        f"# {manifest.model_id}",
        "Written from `manifest.json` beside it, which alone is read by machines. Where this is missing it is written "
        "again.",
        _table(("", ""), _facts(manifest)),
        f"## Input\n\n{_input(manifest)}",
        f"## Output\n\n{_output(manifest)}",
        "## Engines\n\n"
        + _table(("engine", "artefact"), sorted(manifest.engines.items()))
        + f"\n\n{_agreement(manifest)}",
        "## Made with\n\n" + (_table(("part", "version"), sorted(manifest.made_with.items())) or "Nothing is noted."),
        "## Files\n\n" + _table(("file", "SHA-256"), sorted(manifest.files.items())),
    ]
    if others := _others(manifest):
        parts.append("## What else the manifest says\n\n" + _table(("field", "value"), others))
    return "\n\n".join(parts) + "\n"


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    return [
        ("name", manifest.name),
        ("version", manifest.version),
        ("source", manifest.source),
        ("licence", manifest.licence),
        ("task", manifest.task),
        ("labels", f"{len(manifest.labels):,}"),
    ]


def _input(manifest: Manifest) -> str:
    size, scale = manifest.preprocessing, manifest.input_scale
    crop = (
        "the whole image" if size.crop_fraction == 1 else f"a centre crop of {size.crop_fraction:g} of its shorter side"
    )
    where = "inside the artefacts" if manifest.litert_input is None else "before LiteRT gets it"
    return (
        f"RGB, {size.height} x {size.width} pixels (height x width): {crop}, resized by the filter "
        f"{size.resize_filter}. Each value from 0 to 255 enters the network as (value - {scale.mean:g}) / "
        f"{scale.scale:g}; that is done {where}."
    )


def _output(manifest: Manifest) -> str:
    names = [f"{_cell(label.name)} ({_cell(label.label_id)})" for label in manifest.labels[:_LABELS_SHOWN]]
    rest = len(manifest.labels) - len(names)
    labels = ", ".join(names) + (f" and {rest:,} more" if rest else "")
    columns = manifest.background_columns
    before = f" after {columns} without a label" if columns else ""
    return f"A column of {manifest.output} for each label{before}: {labels}."


def _agreement(manifest: Manifest) -> str:
    measured = manifest.agreement
    if measured is None:
        return "No agreement between engines was measured."
    share = 100 * measured.equal_top1 / measured.inputs
    return (
        f"The converted model was compared with the original on {measured.inputs:,} inputs: the same label for "
        f"{measured.equal_top1:,} ({share:.4g} %), and no probability further apart than {measured.max_difference:.2g}."
    )


def _others(manifest: Manifest) -> list[tuple[str, str]]:
    fields = manifest.model_dump(mode="json", exclude=set(_TOLD), exclude_defaults=True)
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in sorted(fields.items())
    ]


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of two columns; nothing without rows."""
    lines = [f"| {_cell(left)} | {_cell(right)} |" for left, right in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "| --- | --- |", *lines]) if lines else ""


def _cell(text: str) -> str:
    """Return a text on one line that is neither a column of its own nor HTML."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "\\<")
