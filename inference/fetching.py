"""fetch: image ref -> the object's bytes. Pure but for the store it is given."""

from __future__ import annotations

import hashlib

from inference.errors import EmptyObjectError, FolderPlaceholderError, ImageGoneError, ObjectTooLargeError
from inference.ports import ObjectStore
from inference.types import FORGOTTEN_ETAG, ContentDigest, FetchedImage, ImageRef


def fetch_image(ref: ImageRef, store: ObjectStore, *, max_bytes: int) -> FetchedImage:
    """Return an image version's bytes with their SHA-256. What the ref itself already condemns costs no request.

    Args:
        ref: The image version, with its size as listed.
        store: Where it is.
        max_bytes: Largest object that is read.

    Raises:
        EmptyObjectError, FolderPlaceholderError: zero bytes.
        ObjectTooLargeError: more than ``max_bytes``.
        ImageGoneError: it was forgotten since the run was planned, or as ``ObjectStore.fetch`` says.
        ObjectAccessDeniedError, StoreUnavailableError, StoreCredentialsError, BucketMissingError: as
            ``ObjectStore.fetch`` says.
    """
    if ref.etag == FORGOTTEN_ETAG:
        raise ImageGoneError("the object was forgotten after the run was planned")
    if ref.size_bytes == 0:
        if ref.key.endswith("/"):
            raise FolderPlaceholderError(
                "the object is the zero-byte placeholder of a folder, not an image; "
                "nothing to do, or delete it to be rid of this line"
            )
        raise EmptyObjectError("the object has zero bytes; upload the image again")
    if ref.size_bytes > max_bytes:
        raise ObjectTooLargeError(
            f"the object has {ref.size_bytes:,} bytes, more than the {max_bytes:,} allowed; "
            "raise NIGHTLABEL_MAX_OBJECT_BYTES to accept it"
        )
    got = store.fetch(ref, max_bytes=max_bytes)
    content = ContentDigest(hashlib.sha256(got.data).digest(), got.is_etag_md5)
    return FetchedImage(ref=ref, data=got.data, content=content)
