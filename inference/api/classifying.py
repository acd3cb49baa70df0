"""REST classification: uploads -> outcomes, by the stages of the nightly job. Owns the handle and its one worker."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from inference.api.bodies import Upload
from inference.api.errors import ModelNotReadyError
from inference.errors import EmptyObjectError, ImageError, InferenceError
from inference.settings import Settings
from inference.types import Classified, ContentDigest, DeadLetter, DecodedImage, ImageRef, ModelId, Prediction, Stage

if TYPE_CHECKING:
    from inference.ports import ModelHandle

logger = logging.getLogger(__name__)


class Classifier:
    """Loads one model and classifies uploads with it, for any number of callers on one event loop.

    A handle serves one caller at a time, so it lives on a thread of its own, where it is loaded too; images are decoded
    on others. Batches of one request wait their turn one by one, so that a long request does not hold up the short
    ones behind it; batches over several callers would be made in ``_predict``.
    """

    def __init__(
        self,
        settings: Settings,
        load_handle: Callable[[], ModelHandle],
        on_load_failure: Callable[[Exception], None],
    ) -> None:
        self._settings = settings
        self._load_handle = load_handle
        self._on_load_failure = on_load_failure
        self._model_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._decode_threads = ThreadPoolExecutor(max_workers=settings.decode_threads, thread_name_prefix="decode")
        self._handle: ModelHandle | None = None
        self._has_failed = False
        self._loading: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load the model; ``ready_handle`` tells when it is there."""
        self._loading = asyncio.create_task(self._load())

    async def close(self) -> None:
        """Wait for what the threads are doing and stop them."""
        if self._loading is not None:
            await self._loading
        await asyncio.to_thread(self._model_thread.shutdown)
        await asyncio.to_thread(self._decode_threads.shutdown)

    def ready_handle(self) -> ModelHandle:
        """Return the model.

        Raises:
            ModelNotReadyError: it is not loaded and warmed up yet, or never will be.
        """
        if self._handle is not None:
            return self._handle
        if self._has_failed:
            raise ModelNotReadyError("The model could not be loaded; the service's log says why.")
        raise ModelNotReadyError("The model is being loaded; try again in a few seconds.")

    async def classify(self, uploads: Sequence[Upload], top_k: int) -> tuple[ModelId, list[Classified]]:
        """Give each upload its outcome; a bad image costs no other its label.

        Args:
            uploads: What a caller sent.
            top_k: Labels for each image; no more than the model has.

        Returns:
            The model that answered and one outcome for each upload, in order.

        Raises:
            ModelNotReadyError: as in ``ready_handle``.
            ModelExecutionError: the model failed; no image is blamed for it.
        """
        from inference.batching import batches

        handle = self.ready_handle()
        loop = asyncio.get_running_loop()
        decoded = await asyncio.gather(
            *(
                loop.run_in_executor(self._decode_threads, decode_upload, position, upload, handle, self._settings)
                for position, upload in enumerate(uploads)
            )
        )
        images = [image for image in decoded if isinstance(image, DecodedImage)]
        predictions: list[Prediction] = []
        for batch in batches(images, self._settings.batch_size or handle.best_batch_size):
            predictions += await self._predict(batch.images, handle, top_k)
        labelled = iter(predictions)
        return handle.model_id, [image if isinstance(image, DeadLetter) else next(labelled) for image in decoded]

    async def _predict(self, images: Sequence[DecodedImage], handle: ModelHandle, top_k: int) -> list[Prediction]:
        from inference.predicting import predict_batch

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._model_thread, lambda: predict_batch(images, handle, top_k=top_k))

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            handle = await loop.run_in_executor(self._model_thread, load_and_warm_up, self._load_handle)
        except Exception as error:  # noqa: BLE001  # whoever serves is told, whatever it is
            self._has_failed = True
            self._on_load_failure(error)
        else:
            self._handle = handle
            logger.info("Serving %s with %s", handle.model_id, handle.engine)


def log_load_failure(error: Exception) -> None:
    """Say in the log why the model could not be loaded: in a line if that was foreseen, else with the trace."""
    is_foreseen = isinstance(error, InferenceError)
    logger.error("Could not load the model: %s", error, exc_info=None if is_foreseen else error)


def load_and_warm_up(load_handle: Callable[[], ModelHandle]) -> ModelHandle:
    """Load a model and let it answer once: the first answer of an engine is slow, and a broken one has none.

    Raises:
        ModelError: it cannot be loaded, or does not answer as its manifest says.
    """
    import numpy as np

    from inference.predicting import check_scores

    handle = load_handle()
    size = handle.preprocessing
    scores = handle.predict(np.zeros((1, size.height, size.width, 3), np.uint8))
    check_scores(scores, handle, 1)
    return handle


def decode_upload(position: int, upload: Upload, handle: ModelHandle, settings: Settings) -> DecodedImage | DeadLetter:
    """Decode one upload as the nightly job decodes an object.

    Args:
        position: Of the image in its request; stands in for a key, so that nothing of the caller's gets into a message.
        upload: The image.
        handle: Its manifest says how pixels are made.
        settings: The bound on pixels.
    """
    from inference.decoding import decode_image

    content = ContentDigest(hashlib.sha256(upload.data).digest())
    ref = ImageRef(bucket="", key=f"image {position + 1}", etag=content.sha256.hex(), size_bytes=len(upload.data))
    try:
        if not upload.data:
            raise EmptyObjectError("the upload has no bytes, expected an image; send the file again")
        pixels = decode_image(upload.data, handle.preprocessing, max_pixels=settings.max_pixels)
    except ImageError as error:
        return DeadLetter(ref, Stage.DECODE, error.code, str(error), error.is_retryable, content)
    return DecodedImage(ref, pixels, content)
