"""A label map is read from what people have, and has to fit the model's columns."""

from __future__ import annotations

import pytest

from inference.errors import ModelSourceError
from inference.models.labels import fit_labels, imagenet_labels, read_labels
from inference.types import Label

CATS = (Label("cat", "n1"), Label("crane", "n2"), Label("crane", "n3"))


def test_a_csv_gives_ids_and_names() -> None:
    assert read_labels(b"label_id,name\nn1,cat\nn2,crane\nn3,crane\n", "l.csv") == CATS
    assert (
        read_labels(b"\xef\xbb\xbfindex,wordnet_id,label\r\n0,n1,cat\r\n1,n2,crane\r\n2,n3,crane\r\n", "l.CSV") == CATS
    )


def test_a_name_on_each_line_is_its_own_id() -> None:
    assert read_labels("cat\nK\u00e4fer, gro\u00df\n\n".encode(), "labels.txt") == (
        Label("cat", "cat"),
        Label("K\u00e4fer, gro\u00df", "K\u00e4fer, gro\u00df"),
    )


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "l.txt", "hold no label"),
        (b"label_id,name\n", "l.csv", "hold no label"),
        (b"cat\ncrane\ncrane\n", "l.txt", "lines 2 and 3 .*both have the id 'crane', .*give a CSV"),
        (b"cat\n\ncrane\n", "l.txt", "line 2 of the labels l.txt has no name"),
        (b"label_id,name\nn1,cat\nn1,dog\n", "l.csv", "lines 2 and 3 .*both have the id 'n1'"),
        (b"label_id,name\nn1\n", "l.csv", "line 2 of the labels l.csv has no name"),
        (b"number,name\n1,cat\n", "l.csv", "the header of the labels l.csv is number, name; expected .*label_id"),
        (b"index,label_id,name\n1,n1,cat\n", "l.csv", "has the index 1, expected 0"),
        (b"\xff\xfe", "l.txt", "no text in UTF-8"),
    ],
)
def test_what_is_no_label_map_is_refused_by_line(data: bytes, name: str, message: str) -> None:
    with pytest.raises(ModelSourceError, match=message) as raised:
        read_labels(data, name)
    assert "\n" not in str(raised.value)


def test_a_label_map_that_names_the_background_is_taken_without_it() -> None:
    with_background = (Label("background", "background"), *CATS)

    assert fit_labels(with_background, 4, 1, what="m") == CATS
    assert fit_labels(CATS, 4, 1, what="m") == CATS
    assert fit_labels(CATS, 3, 0, what="m") == CATS


@pytest.mark.parametrize(
    ("columns", "background", "message"),
    [
        (5, 0, "m has 5 output columns, 0 of them background, and the label map has 3 labels, expected 5; give"),
        (4, 0, "has 3 labels, expected 4; if its first column is a background class, say so with --background 1"),
        (3, 1, "m has 3 output columns, 1 of them background, and the label map has 3 labels, expected 2"),
        (1001, 1, "m has 1,001 output columns, 1 of them background, and the label map has 3 labels, expected 1,000"),
    ],
)
def test_a_label_map_of_the_wrong_length_is_refused_with_both_numbers(
    columns: int, background: int, message: str
) -> None:
    with pytest.raises(ModelSourceError, match=message):
        fit_labels(CATS, columns, background, what="m")


def test_the_bundled_labels_are_those_of_imagenet() -> None:
    labels = imagenet_labels()

    assert len(labels) == 1000
    assert [label.label_id for label in labels] == sorted(label.label_id for label in labels)
    assert labels[0] == Label("tench", "n01440764")
