"""models: label maps, out of a file that somebody gives or the bundled one of ImageNet. Pure but for that one."""

from __future__ import annotations

import csv
import io
from importlib import resources
from typing import Final

from inference.errors import ModelConversionError, ModelSourceError
from inference.models.manifest import label_map
from inference.types import Label, LabelMap

IMAGENET: Final = "imagenet"
"""What is given to choose the bundled label map."""

MAX_LABELS_BYTES: Final = 64 * 1024 * 1024
"""Largest file of labels that is read."""

_ID_COLUMNS: Final = ("label_id", "id", "wordnet_id")
_NAME_COLUMNS: Final = ("name", "label")
_BACKGROUND_NAMES: Final = frozenset({"background", "dummy", "/m/background"})


def imagenet_labels() -> LabelMap:
    """Return ImageNet's 1,000 classes in the order of the output columns; the ids are those of WordNet."""
    text = resources.files("inference.models").joinpath("imagenet_labels.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    if [row["index"] for row in rows] != [str(index) for index in range(1000)]:
        raise ModelConversionError(
            f"imagenet_labels.csv holds {len(rows)} classes or holds them out of order, expected 0 to 999; "
            "install nightlabel again"
        )
    return tuple(Label(name=row["name"], label_id=row["wordnet_id"]) for row in rows)


def read_labels(data: bytes, name: str) -> LabelMap:
    """Return the label map that a file holds, in the order of the model's output columns.

    A name that ends in ``.csv``: a header with ``label_id`` (or ``id``, ``wordnet_id``) and ``name`` (or ``label``),
    and, if there is an ``index``, rows in its order. Another name: the name of a class on each line, which is its id as
    well, so that it stays the same when a later version has more classes.

    Args:
        data: The file.
        name: Its name, for its kind and for messages.

    Raises:
        ModelSourceError: no label map, or ids that are not unique; names the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelSourceError(f"the labels {name} are no text in UTF-8 ({error}); save them as UTF-8") from error
    rows = _csv_rows(text, name) if name.lower().endswith(".csv") else _lines(text)
    if not rows:
        raise ModelSourceError(f"the labels {name} hold no label; give one for each output column of the model")
    seen: dict[str, int] = {}
    for line, label_id, label in rows:
        if not label_id or not label:
            raise ModelSourceError(f"line {line} of the labels {name} has no name or no id; give both for each column")
        if label_id in seen:
            raise ModelSourceError(
                f"lines {seen[label_id]} and {line} of the labels {name} both have the id {label_id!r}, and ids have "
                "to differ; give a CSV with the columns label_id and name"
            )
        seen[label_id] = line
    return label_map([(label_id, label) for _, label_id, label in rows])


def fit_labels(labels: LabelMap, columns: int, background_columns: int, *, what: str) -> LabelMap:
    """Return a label map without the background that a model's columns begin with, after comparing their numbers.

    Args:
        labels: As read; may begin with a label for each background column, if it is called so.
        columns: Output columns of the model.
        background_columns: How many of them are background.
        what: The model's name, for the message.

    Raises:
        ModelSourceError: another number of labels than of columns; names both.
    """
    expected = columns - background_columns
    if len(labels) == columns and all(label.name.lower() in _BACKGROUND_NAMES for label in labels[:background_columns]):
        return labels[background_columns:]
    if len(labels) == expected:
        return labels
    hint = "give the label map that it was trained with"
    if len(labels) == columns - 1 and not background_columns:
        hint = "if its first column is a background class, say so with --background 1"
    raise ModelSourceError(
        f"{what} has {columns:,} output columns, {background_columns} of them background, and the label map has "
        f"{len(labels):,} labels, expected {expected:,}; {hint}"
    )


def _csv_rows(text: str, name: str) -> list[tuple[int, str, str]]:
    reader = csv.DictReader(io.StringIO(text))
    header = [column.strip().lower() for column in reader.fieldnames or ()]
    reader.fieldnames = header
    id_column = next((column for column in _ID_COLUMNS if column in header), None)
    name_column = next((column for column in _NAME_COLUMNS if column in header), None)
    if id_column is None or name_column is None:
        raise ModelSourceError(
            f"the header of the labels {name} is {', '.join(header) or 'empty'}; expected the columns label_id and name"
        )
    rows = []
    try:
        for number, row in enumerate(reader):
            if "index" in header and (row["index"] or "").strip() != str(number):
                raise ModelSourceError(
                    f"line {reader.line_num} of the labels {name} has the index {row['index']}, expected {number}; "
                    "give the labels in the order of the model's output columns, from 0"
                )
            rows.append((reader.line_num, (row[id_column] or "").strip(), (row[name_column] or "").strip()))
    except csv.Error as error:
        raise ModelSourceError(
            f"line {reader.line_num} of the labels {name} is no CSV ({error}); save it anew"
        ) from error
    return rows


def _lines(text: str) -> list[tuple[int, str, str]]:
    lines = [line.strip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return [(number, line, line) for number, line in enumerate(lines, 1)]
