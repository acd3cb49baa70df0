"""decode: bytes of an object -> the pixels that a model was trained to see. Pure; Pillow does the work.

The kind of an image is judged by its first bytes, never by its name, and only the decoder of that kind is asked. JPEG
and PNG are first relieved of what is no part of the picture (text, colour profiles, previews, animation): broken or
inflated metadata then costs nobody a label, and no parser of metadata runs on hostile bytes but the few lines here.

Whoever lets an image through that was refused before raises ``planning.DECODER_REVISION``: then it is tried again.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from inference.errors import (
    DecoderOutOfMemoryError,
    FormatNotAllowedError,
    ImageTooLargeError,
    InferenceError,
    NotAnImageError,
    TruncatedImageError,
    UndecodableImageError,
)
from inference.memory import Reserve, no_limit
from inference.types import Pixels, Preprocessing

ALLOWED_FORMATS: Final = "JPEG, PNG, WebP, GIF and BMP"

MAX_SCANS: Final = 500
"""Scans of a progressive JPEG. Encoders write about ten; thousands keep a decoder busy for minutes."""

MAX_SCANNED_PIXELS: Final = 5_000_000_000
"""Width x height x scans of a progressive JPEG. Each scan passes over all pixels, so these are some seconds of work."""

_BYTES_PER_PIXEL: Final = {"JPEG": 9, "PNG": 13, "WebP": 17, "GIF": 11, "BMP": 9}
"""Most memory that decoding holds at a time, for each pixel of the stored image, as measured (docs/tuning.md)."""

_BYTES_PER_PIXEL_OF_COEFFICIENTS: Final = 8
"""What a JPEG that comes in several scans takes besides, since its coefficients are kept until the last one."""

_BYTES_PER_PIXEL_IN_SCANS: Final = 13
"""Most memory that such a JPEG takes in all, at its full size: the coefficients are gone before the last step."""

LEAST_SHRUNK: Final = 2.0
"""A large JPEG is decoded at a half, a quarter or an eighth of its size, if the crop is so many times the model's input
even then. As measured on crops of that size, 99.3 % of labels are those of the full decode (docs/tuning.md)."""

_BYTES_PER_PIXEL_OF_16_BITS: Final = 16
"""Likewise of a PNG in grey of 16 bits, whose values are computed with."""

MAX_SEGMENTS: Final = 5_000
"""Segments before the picture of a JPEG, of at most 64 KiB each. Colour profiles and previews take some hundreds."""

MAX_CHUNKS: Final = 100_000
"""Chunks of a PNG; encoders write one for every 8 KiB or more."""

_DECODERS: Final[dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
}

_RESIZE_FILTERS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_SIDEWAYS: Final = frozenset({5, 6, 7, 8})
"""Orientations under which rows of the stored image are columns of the picture."""

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    6: Image.Transpose.FLIP_LEFT_RIGHT,
    7: Image.Transpose.ROTATE_180,
    8: Image.Transpose.FLIP_TOP_BOTTOM,
}
"""What makes an image upright, by its EXIF orientation; a sideways one once its rows and columns are exchanged."""

_MIRRORS_X: Final = frozenset({2, 3, 7, 8})
_MIRRORS_Y: Final = frozenset({3, 4, 6, 7})
"""Orientations under which the stored image's columns, or rows, run against the picture's."""

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_BMP_HEADER_SIZES: Final = frozenset({12, 16, 40, 52, 56, 64, 108, 124})

_OTHER_FORMATS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"8BPS", "Photoshop"),
    (b"SIMPLE  =", "FITS"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x02\x00", "CUR"),
    (b"icns", "ICNS"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"DDS ", "DDS"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"gimp xcf", "GIMP"),
    (b"AT&TFORM", "DjVu"),
    (b"qoif", "QOI"),
    (b"\x8aMNG", "MNG"),
    (b"\x8bJNG", "JNG"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"/* XPM */", "XPM"),
    (b"\x01\xda", "SGI"),
    (b"Y\xa6j\x95", "Sun raster"),
)
"""First bytes of image formats that are known but not classified."""

_HEIF_BRANDS: Final = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    b"crx ": "Canon raw",
}

_NO_IMAGES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"Rar!", "a rar archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\x1aE\xdf\xa3", "a Matroska video"),
    (b"OggS", "an Ogg stream"),
    (b"ID3", "an MP3"),
    (b"RIFF", "RIFF data, but no WebP"),
)


def decode_image(
    data: bytes, preprocessing: Preprocessing, *, max_pixels: int = 50_000_000, reserve: Reserve = no_limit
) -> Pixels:
    """Decode JPEG, PNG, WebP, GIF or BMP bytes to the pixels that the model was trained to see.

    Of an animation the first frame counts. Transparency is put on white, the EXIF orientation is applied, 16 bits a
    channel are scaled to 8, colour profiles are ignored; the centre square that ``preprocessing`` names is resized.
    A JPEG much larger than that is decoded straight to a smaller size (``LEAST_SHRUNK``), which takes a fraction of the
    time and memory. Safe to call from several threads.

    Args:
        data: The whole object as stored.
        preprocessing: Crop, resize filter, height and width in pixels, from the model's manifest.
        max_pixels: Largest width x height accepted, judged by the header before anything is decoded.
        reserve: Asked for the memory that decoding takes, in bytes, when the header was read; may wait or refuse.

    Returns:
        uint8, shape (height, width, 3), RGB, 0 to 255, contiguous, not to be written to.

    Raises:
        NotAnImageError: not an image at all.
        FormatNotAllowedError: an image of another format.
        TruncatedImageError: ends too early.
        UndecodableImageError: an allowed format, but broken.
        ImageTooLargeError: over ``max_pixels``; a small file can announce a huge image.
        DecoderOutOfMemoryError: the decoder asked for more memory than there was.
    """
    kind = _recognise(data)
    try:
        return _decode(kind, data, preprocessing, max_pixels, reserve)
    except InferenceError:
        raise
    except MemoryError as error:
        raise _out_of_memory(kind, data) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(
            f"the {kind} announces more than the {max_pixels:,} pixels allowed ({error}); "
            "raise NIGHTLABEL_MAX_PIXELS to accept it"
        ) from error
    except Exception as error:
        # For hostile bytes nearly every exception there is escapes from Pillow, and each of them condemns one image.
        if "out of memory" in str(error):
            raise _out_of_memory(kind, data) from error
        if _ends_early(kind, data):
            raise TruncatedImageError(
                f"the {kind} ends too early, after {len(data):,} bytes ({_reason(error)}); upload it again, whole"
            ) from error
        raise UndecodableImageError(
            f"the {kind} of {len(data):,} bytes cannot be decoded ({_reason(error)}); save it anew and upload that"
        ) from error


class _Crop(NamedTuple):
    """The square of the stored image that the model sees, in whole pixels."""

    left: int
    top: int
    side: int


def _decode(kind: str, data: bytes, preprocessing: Preprocessing, max_pixels: int, reserve: Reserve) -> Pixels:
    exif = b""
    is_one_scan = True
    if kind == "JPEG":
        data, exif, is_one_scan = _bare_jpeg(data)
    elif kind == "PNG":
        data, exif = _bare_png(data)

    with ExitStack() as held:
        if kind == "WebP":  # its decoder takes the memory as soon as it is made
            width, height = _webp_size(data)
            _check_size(kind, (width, height), max_pixels)
            held.enter_context(reserve(_BYTES_PER_PIXEL[kind] * width * height))
        with _DECODERS[kind](io.BytesIO(data)) as image:
            _check_size(kind, image.size, max_pixels)
            orientation = _orientation(exif or image.info.get("exif", b""))
            crop = _centre(image.size, preprocessing, orientation)
            pixels = image.width * image.height
            shrunk = _shrink(image, crop, preprocessing) if isinstance(image, JpegImageFile) else 1
            if kind != "WebP":
                a_pixel = _BYTES_PER_PIXEL_OF_16_BITS if image.mode.startswith("I") else _BYTES_PER_PIXEL[kind]
                wanted = a_pixel * image.width * image.height
                if not is_one_scan:
                    coefficients = _BYTES_PER_PIXEL_OF_COEFFICIENTS * pixels
                    wanted = _BYTES_PER_PIXEL_IN_SCANS * pixels if shrunk == 1 else wanted + coefficients
                held.enter_context(reserve(wanted + len(data)))
            image.load()
            if image.mode == "P" and image.palette is None:
                raise ValueError("its palette is missing")
            has_unused_alpha = kind == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)
            square, box = _cut(image, crop, shrunk)
        del image  # what follows needs the middle only, and so the least memory
        square = _without_odd_modes(square, has_unused_alpha=has_unused_alpha)
        return _fit(square, box, preprocessing, orientation)


def _centre(size: tuple[int, int], preprocessing: Preprocessing, orientation: int) -> _Crop:
    """Return the square in the middle of the upright picture.

    Where it cannot be quite in the middle, it is nearer to the left and the top.
    """
    width, height = size
    side = max(1, int(preprocessing.crop_fraction * min(size)))
    left = (width - side + (orientation in _MIRRORS_X)) // 2
    top = (height - side + (orientation in _MIRRORS_Y)) // 2
    return _Crop(left, top, side)


def _shrink(image: JpegImageFile, crop: _Crop, preprocessing: Preprocessing) -> int:
    """Have a JPEG decoded at a fraction of its size if it is large enough; return by what its sides are divided.

    The decoder then computes fewer values from each 8 x 8 block of coefficients: their averages, and no others.
    """
    if preprocessing.resize_filter == "nearest":  # such a model was trained on single pixels, not on averages
        return 1
    least = LEAST_SHRUNK * max(preprocessing.width, preprocessing.height)
    for shrunk in (8, 4, 2):
        if crop.side >= shrunk * least and image.draft(None, (image.width // shrunk, image.height // shrunk)):
            return shrunk
    return 1


def _cut(image: Image.Image, crop: _Crop, shrunk: int) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """Return the pixels that hold a crop, and where in them it lies.

    Args:
        image: The decoded image.
        crop: In pixels of the stored image.
        shrunk: By what the sides of the stored image were divided.
    """
    left, top = crop.left / shrunk, crop.top / shrunk
    right, bottom = (crop.left + crop.side) / shrunk, (crop.top + crop.side) / shrunk
    x, y = math.floor(left), math.floor(top)
    square = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
    return square, (left - x, top - y, right - x, bottom - y)


def _fit(
    image: Image.Image, box: tuple[float, float, float, float], preprocessing: Preprocessing, orientation: int
) -> Pixels:
    """Resize, put on white and turn upright, in this order: only the first touches every pixel.

    A mirrored image is resized to the mirrored result. But the resize goes along rows first and rounds, so that rows
    and columns have to be exchanged before it if every bit is to be that of the upright picture.
    """
    size = (preprocessing.width, preprocessing.height)
    if orientation in _SIDEWAYS:
        image = image.transpose(Image.Transpose.TRANSPOSE)
        left, top, right, bottom = box
        box = (top, left, bottom, right)
    # Of transparent images Pillow weighs the colours by their opacity.
    image = image.resize(size, _RESIZE_FILTERS[preprocessing.resize_filter], box)
    if image.mode == "RGBA":
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=image.getchannel("A"))
        image = canvas
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)


def _without_odd_modes(image: Image.Image, *, has_unused_alpha: bool) -> Image.Image:
    """Return the image as grey, RGB or RGBA of 8 bits."""
    if has_unused_alpha:  # written by programs that leave the fourth byte unused
        return image.convert("RGB")
    if image.mode.startswith("I"):  # Pillow's own conversion clips 16 bits to white
        values = np.asarray(image).astype(np.uint16)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        transparent = image.info.get("transparency")
        if transparent is None:
            return grey
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, alpha)).convert("RGBA")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in {"L", "RGB"} else image.convert("RGB")


def _check_size(kind: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the {kind} announces {width:,} x {height:,} pixels, more than the {max_pixels:,} allowed; "
            "raise NIGHTLABEL_MAX_PIXELS to accept it"
        )


def _recognise(data: bytes) -> str:
    """Return which allowed format the bytes begin like, or raise what they are instead."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    other = _other_format(data)
    if other is not None:
        raise FormatNotAllowedError(f"the image is {other}, but only {ALLOWED_FORMATS} are classified; convert it")
    raise NotAnImageError(
        f"the object is no image but {_looks_like(data)}; only {ALLOWED_FORMATS} are classified, "
        "so remove it or narrow the prefix"
    )


def _other_format(data: bytes) -> str | None:
    for signature, name in _OTHER_FORMATS:
        if data.startswith(signature):
            return name
    if data[4:8] == b"ftyp":
        return _HEIF_BRANDS.get(data[8:12])
    if data[:1] == b"P" and data[1:2] in {b"1", b"2", b"3", b"4", b"5", b"6", b"7"} and data[2:3].isspace():
        return "PNM"
    if data[128:132] == b"DICM":
        return "DICOM"
    if data[:5] == b"\x0a\x05\x01\x01\x00" or data[:4] in {b"\x0a\x05\x01\x08", b"\x0a\x05\x01\x04"}:
        return "PCX"
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<") and b"<svg" in start and b"<html" not in start:
        return "SVG"
    return None


def _looks_like(data: bytes) -> str:
    """Return in words what bytes that are no image look like."""
    for signature, name in _NO_IMAGES:
        if data.startswith(signature):
            return name
    if data[4:8] == b"ftyp":
        return "an MP4 or QuickTime video"
    if data and not data.strip(b"\x00"):
        return f"{len(data):,} zero bytes"
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if start.startswith((b"<?xml", b"<")):
        return "XML"
    if len(data) > 1 and _is_text(data[:4096]):
        return "JSON" if start.startswith((b"{", b"[")) else "text"
    return f"{len(data):,} {'byte' if len(data) == 1 else 'bytes'} of unknown kind"


def _is_text(start: bytes) -> bool:
    text = start.decode("utf-8", "ignore")  # the cut may have gone through a character
    return len(text.encode()) >= max(1, len(start) - 3) and all(char.isprintable() or char.isspace() for char in text)


def _bare_jpeg(data: bytes) -> tuple[bytes, bytes, bool]:
    """Return a JPEG without its metadata, the EXIF block that was in it, and whether its picture comes in one scan.

    What says how colours are to be read stays (JFIF and Adobe). From the first irregularity on everything stays, for
    the decoder to judge.
    """
    view = memoryview(data)
    kept: list[bytes | memoryview] = [data[:2]]
    exif = b""
    components = b""  # of a frame that may come in one scan
    pixels = 0
    position = 2
    for _ in range(MAX_SEGMENTS):
        if data[position : position + 1] != b"\xff" or position + 4 > len(data):
            break
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker < 0xC0 or 0xD0 <= marker <= 0xDA or end > len(data) or end < position + 4:
            break
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            segment = data[position + 4 : end]
            if marker == 0xE1 and not exif and segment.startswith(b"Exif\x00\x00"):
                exif = segment
            elif marker in {0xE0, 0xEE}:
                kept.append(view[position:end])
        else:
            if marker not in {0xC4, 0xC8, 0xCC} and marker <= 0xCF:  # a frame header
                height, width = struct.unpack(">HH", data[position + 5 : position + 9].ljust(4, b"\x00"))
                pixels = max(pixels, width * height)
            if marker in {0xC0, 0xC1}:
                components = data[position + 9 : position + 10]
            kept.append(view[position:end])
        position = end
    else:
        raise UndecodableImageError(f"the JPEG has more than {MAX_SEGMENTS:,} segments before its picture; rewrite it")

    is_one_scan = bool(components) and data[position + 4 : position + 5] == components
    scans = 1 if is_one_scan else data.count(b"\xff\xda", position)
    if scans > MAX_SCANS:
        raise UndecodableImageError(f"the JPEG has {scans:,} scans, more than the {MAX_SCANS:,} allowed; rewrite it")
    if scans > 1 and scans * pixels > MAX_SCANNED_PIXELS:
        raise UndecodableImageError(
            f"the JPEG has {scans:,} scans of {pixels:,} pixels, more than the {MAX_SCANNED_PIXELS:,} pixels allowed "
            "in all its scans; rewrite it"
        )
    return b"".join([*kept, view[position:]]), exif, is_one_scan


def _bare_png(data: bytes) -> tuple[bytes, bytes]:
    """Return a PNG without its metadata and animation, and the EXIF block that was in it.

    Raises:
        UndecodableImageError: a chunk of the picture itself has a wrong checksum.
    """
    view = memoryview(data)
    kept: list[bytes | memoryview] = [_PNG_SIGNATURE]
    exif = b""
    position = len(_PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if position + 12 > len(data) or end > len(data):
            kept.append(view[position:])  # cut short, as the decoder will say
            break
        name = data[position + 4 : position + 8]
        if name == b"eXIf":
            exif = data[position + 8 : end - 4]
        elif name == b"tRNS" or not name[0] & 0x20:  # a small first letter marks what a decoder may ignore
            if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise UndecodableImageError(
                    f"the PNG is broken (wrong checksum of its chunk {_one_line(name.decode('latin-1'))}); "
                    "upload a sound one"
                )
            kept.append(view[position:end])
        if name == b"IEND":
            break
        position = end
    else:
        raise UndecodableImageError(f"the PNG has more than {MAX_CHUNKS:,} chunks; rewrite it")
    return b"".join(kept), exif


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels as the header says, or zeros if it says nothing."""
    if data[12:16] == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if data[12:16] == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _orientation(exif: bytes) -> int:
    """Return the orientation that an EXIF block states, 1 to 8; 1 if it is missing or broken."""
    exif = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, start + 2 + 12 * entry)
            if (tag, kind) == (0x0112, 3):
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _ends_early(kind: str, data: bytes) -> bool:
    """Say of an image that could not be decoded whether its end is missing."""
    if kind == "JPEG":
        data, _, _ = _bare_jpeg(data)  # previews have ends of their own
        return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    if kind == "PNG":
        return b"IEND" not in data[-12:] and b"IEND" not in _bare_png(data)[0][-12:]
    if kind == "GIF":
        return not data.rstrip(b"\x00").endswith(b";")
    announced = int.from_bytes(data[4:8], "little") + 8 if kind == "WebP" else int.from_bytes(data[2:6], "little")
    return len(data) < max(announced, 26)


def _out_of_memory(kind: str, data: bytes) -> DecoderOutOfMemoryError:
    return DecoderOutOfMemoryError(
        f"there was not enough memory to decode the {kind} of {len(data):,} bytes; "
        "lower NIGHTLABEL_MAX_PIXELS or give the worker more"
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {_one_line(str(error)[:200])}".rstrip(": ")


def _one_line(text: str) -> str:
    """Return text that comes from an image without what no log or terminal should be given: line ends, controls."""
    return "".join(char if char.isprintable() else "?" for char in text)
