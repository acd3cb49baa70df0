"""A model card says in Markdown what the manifest says, and nothing of a manifest can change its form."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import inference.models.card
from inference.models.card import model_card
from inference.models.manifest import Manifest
from inference.types import Label, Preprocessing
from tests.unit.test_model_manifest import DIGEST, manifest

ORDINARY = """\
# cats@2026.1

Written from `manifest.json` beside it, which alone is read by machines. Where this is missing it is written again.

|  |  |
| --- | --- |
| name | cats |
| version | 2026.1 |
| source | a test |
| licence | CC0-1.0 |
| task | image-classification |
| labels | 2 |

## Input

RGB, 8 x 12 pixels (height x width): a centre crop of 0.875 of its shorter side, resized by the filter bicubic. Each \
value from 0 to 255 enters the network as (value - 127) / 128; that is done inside the artefacts.

## Output

A column of logits for each label after 1 without a label: crane (n1), crane (n2).

## Engines

| engine | artefact |
| --- | --- |
| litert | model.tflite |
| tensorflow | saved_model |

The converted model was compared with the original on 2 inputs: the same label for 2 (100 %), and no probability \
further apart than 1e-07.

## Made with

| part | version |
| --- | --- |
| hand | 1 |

## Files

| file | SHA-256 |
| --- | --- |
| model.tflite | {digest} |
| saved_model/saved_model.pb | {other} |
"""


def test_it_says_what_the_manifest_says():
    assert model_card(manifest()) == ORDINARY.format(digest=DIGEST, other="f" * 64)


def test_what_is_not_known_is_said_in_words():
    card = model_card(
        manifest(
            agreement=None,
            background_columns=0,
            made_with={},
            preprocessing=Preprocessing(8, 8, 1.0, "bilinear"),
            labels=tuple(Label(f"label {number}", f"n{number}") for number in range(1_000)),
        )
    )

    assert "No agreement between engines was measured." in card
    assert "## Made with\n\nNothing is noted." in card
    assert "the whole image, resized" in card
    assert "for each label: label 0 (n0), " in card
    assert "label 4 (n4) and 995 more." in card


@pytest.mark.parametrize("odd", ["a | b", "two\nlines", "<script>", "back\\slash", "# heading\n# heading"])
def test_no_text_of_a_manifest_becomes_a_column_a_line_or_html(odd: str):
    ordinary = model_card(manifest())
    card = model_card(manifest(source=odd, labels=(Label(odd, "n1"), Label("crane", "n2"))))

    assert len(card.splitlines()) == len(ordinary.splitlines())
    assert card.replace("\\|", "").count("|") == ordinary.count("|")
    assert "<" not in card.replace("\\<", "")


def test_every_field_of_a_manifest_is_told():
    class Longer(Manifest):
        calibrated_on: int | None = None
        notes: str | None = None

    card = model_card(Longer(**{**manifest().model_dump(), "calibrated_on": 500}))

    assert card.startswith(ORDINARY.format(digest=DIGEST, other="f" * 64))
    assert card.endswith(
        "## What else the manifest says\n\n| field | value |\n| --- | --- |\n| calibrated_on | 500 |\n"
    )


def test_it_is_made_of_the_manifest_alone():
    tree = ast.parse(Path(inference.models.card.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert {name for name in imported if name and name.startswith("inference")} == {"inference.models.manifest"}
