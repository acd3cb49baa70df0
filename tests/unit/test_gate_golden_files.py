"""A golden set's CSV is read whole or refused with its line and column."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from inference.errors import GoldenSetError, ManifestError
from inference.gate.figures import GoldenImage
from inference.gate.golden_files import read_golden_file
from inference.types import Label
from tests.fakes import FakeObjects, etag_of

LABELS = (Label("tabby", "n1"), Label("crane", "n2"), Label("crane", "n3"), Label("jack-o'-lantern, lit", "n4"))
OBJECTS = {("photos", "a.jpg"): b"a", ("photos", "b.jpg"): b"b", ("other", "a.jpg"): b"c"}


def read(tmp_path: Path, text: str | bytes, *, bucket: str | None = "photos", name: str = "golden.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_golden_file(str(path), FakeObjects(OBJECTS), LABELS, bucket=bucket)


def test_rows_become_images_and_what_has_no_etag_is_looked_up(tmp_path: Path):
    found = read(
        tmp_path, 'bucket,object_key,label,etag,note\nphotos,a.jpg,tabby,,x\n,b.jpg,"jack-o\'-lantern, lit",W/"e7",y\n'
    )

    assert found == [
        GoldenImage("photos", "a.jpg", etag_of(b"a"), "n1"),
        GoldenImage("photos", "b.jpg", "e7", "n4"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "key,label_id\na.jpg,n2\n",
        "Key,LABEL_ID,Label\na.jpg,n2,crane\n",
        "\ufeffkey,label_id\r\na.jpg,n2\r\n",
        "key,label_id\n\na.jpg,n2\na.jpg,n2\n",
        b"\x1f\x8b" + gzip.compress(b"key,label_id\na.jpg,n2\n")[2:],
    ],
)
def test_the_same_image_in_other_words(tmp_path: Path, text: str | bytes):
    assert read(tmp_path, text) == [GoldenImage("photos", "a.jpg", etag_of(b"a"), "n2")]


def test_the_bucket_of_a_row_goes_before_the_one_of_the_command(tmp_path: Path):
    assert [image.bucket for image in read(tmp_path, "bucket,key,label\nother,a.jpg,tabby\n,a.jpg,tabby\n")] == [
        "other",
        "photos",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; its first line has to name its columns"),
        ("key,label\n", "has no rows below its header"),
        ("label\ntabby\n", "has no column key; it has 'label'"),
        ("key\na.jpg\n", "has no column label_id, nor one label; it has 'key'"),
        ("key,Key,label\n", "has the columns 'key' and 'Key'; keep one"),
        ("key,label\na.jpg,tabby,x\n", "line 2 of .* has 3 fields and the header has 2"),
        ("key,label\n,tabby\n", "line 2 of .* has in column key nothing"),
        ("key,label\na.jpg,\n", "line 2 of .* has in column label nothing"),
        ("key,label\na.jpg,tabby\nb.jpg,dog\n", "line 3 of .* has in column label 'dog', which is no label"),
        ("key,label_id\na.jpg,n9\n", "line 2 of .* has in column label_id 'n9', which is no id"),
        (
            "key,label\na.jpg,crane\n",
            "line 2 .* column label 'crane', which is the name of n2 and n3; give its label_id",
        ),
        ("key,label_id,label\na.jpg,n1,crane\n", "column label 'crane', and the label map calls n1 'tabby'"),
        ("key,label,etag\na.jpg,tabby,a b\n", "line 2 .* column etag 'a b', which no store gives"),
        (
            "key,label\nmissing.jpg,tabby\na.jpg,tabby\n",
            "line 2 .* column key 'missing.jpg', which is not in the bucket",
        ),
        ('key,label\na.jpg,tabby\na.jpg,"jack-o\'-lantern, lit"\n', "lines 2 and 3 .* the labels n1 and n4"),
        ("key,label,etag\na.jpg,tabby,e1\na.jpg,tabby,e2\n", "lines 2 and 3 .* the ETags e1 and e2"),
        ('key,label\n"a.jpg,tabby\n', "is no CSV"),
        (b"key,label\n\xff,tabby\n", "line 2 of .* is not UTF-8"),
        ("key,label\n" + "k" * 1025 + ",tabby\n", "longer than the 1,024 bytes of S3"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_column(tmp_path: Path, text: str | bytes, message: str):
    with pytest.raises(GoldenSetError, match=message):
        read(tmp_path, text)


def test_without_any_bucket_it_is_said(tmp_path: Path):
    with pytest.raises(GoldenSetError, match="has no column bucket; add it, or give --bucket"):
        read(tmp_path, "key,label\na.jpg,tabby\n", bucket=None)
    with pytest.raises(GoldenSetError, match=r"line 2 of .* has in column bucket nothing"):
        read(tmp_path, "bucket,key,label\n,a.jpg,tabby\n", bucket=None)


def test_a_file_that_is_missing_is_said(tmp_path: Path):
    with pytest.raises(ManifestError, match="which is given as the golden set; correct the address"):
        read_golden_file(str(tmp_path / "none.csv"), FakeObjects(), LABELS, bucket="photos")


def test_a_key_as_a_view_shows_it_is_the_key_of_the_object(tmp_path: Path):
    odd = b"odd\xff.jpg".decode("utf-8", "surrogateescape")
    objects = FakeObjects({("photos", odd): b"d"})
    path = tmp_path / "golden.csv"
    path.write_text("key,label\nodd\U0010f7ff.jpg,tabby\n", encoding="utf-8")

    [found] = read_golden_file(str(path), objects, LABELS, bucket="photos")

    assert (found.key, found.etag) == (odd, etag_of(b"d"))
