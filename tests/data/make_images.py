"""Makes the small images that tests feed to the decoder: sound, odd, broken and hostile ones, the same every time.

``python tests/data/make_images.py FOLDER`` writes them all; tests call ``make_images``.
"""

from __future__ import annotations

import gzip
import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 32, 24
RED, GREEN, BLUE, WHITE = (230, 20, 30), (20, 200, 40), (30, 40, 220), (255, 255, 255)
"""Colours of the picture's quarters: top left, top right, bottom left, bottom right."""

IMAGES: dict[str, Callable[[], bytes]] = {}
"""How to make each image, by name."""


def image(name: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    def register(make: Callable[[], bytes]) -> Callable[[], bytes]:
        IMAGES[name] = make
        return make

    return register


def picture(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Return the picture in four colours; no turning or mirroring of it looks like another."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    pixels[height // 2 :, width // 2 :] = WHITE
    return Image.fromarray(pixels)


def noise(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Return a picture that compresses badly, so that cutting it cuts the picture and not the trailer."""
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(picture: Image.Image, **options: object) -> bytes:
    return saved(picture, "JPEG", **{"quality": 95, "subsampling": 0, **options})


def exif(orientation: int, order: str = "<") -> bytes:
    head = b"II*\x00" if order == "<" else b"MM\x00*"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return head + struct.pack(order + "IH", 8, 1) + entry + struct.pack(order + "I", 0)


def chunk(name: bytes, body: bytes, *, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(name + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)


def png(
    rows: list[bytes],
    width: int,
    height: int,
    depth: int,
    colour: int,
    *,
    before: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    """Return a PNG of rows that are already packed; ``before`` is put before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    pixels = zlib.compress(b"".join(b"\x00" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def insert_chunks(data: bytes, chunks: bytes) -> bytes:
    """Return a PNG with chunks put after its header."""
    return data[:33] + chunks + data[33:]


def insert_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """Return a JPEG with a segment put at its beginning."""
    return data[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + data[2:]


def with_jpeg_header(data: bytes, *, marker: int = 0xC0, bits: int = 8, size: tuple[int, int] | None = None) -> bytes:
    """Return a baseline JPEG whose frame header says something else; ``size`` is (width, height)."""
    at = data.index(b"\xff\xc0")
    height, width = struct.unpack_from(">HH", data, at + 5)
    width, height = size or (width, height)
    return data[:at] + struct.pack(">BBHBHH", 0xFF, marker, 17, bits, height, width) + data[at + 9 :]


def bmp_variants() -> dict[str, bytes]:
    """Return a BMP of every depth and packing that its readers know, by name. Each shows stripes of some colours."""

    def bmp(depth: int, body: bytes, *, compression: int = 0, masks: bytes = b"", colours: int = 0) -> bytes:
        palette = b"".join(bytes((9 * number % 256, 251 * number % 256, number, 0)) for number in range(colours))
        info = struct.pack("<IiiHHIIiiII", 40, 16, 8, 1, depth, compression, len(body), 0, 0, colours, 0)
        start = 14 + len(info) + len(masks) + len(palette)
        return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + masks + palette + body

    old_header = struct.pack("<IHHHH", 12, 16, 8, 1, 24)
    old_body = bytes(range(48)) * 8
    runs = b"".join(b"\x08" + bytes((number,)) + b"\x08\x02\x00\x00" for number in range(8)) + b"\x00\x01"
    absolute = (b"\x00\x10" + bytes(range(16)) + b"\x00\x00") * 8 + b"\x00\x01"
    return {
        "1_bit": bmp(1, b"\xaa\x55\x00\x00" * 8, colours=2),
        "4_bits": bmp(4, bytes(range(8)) * 8, colours=16),
        "8_bits": bmp(8, bytes(range(16)) * 8, colours=256),
        "16_bits": bmp(16, bytes(range(32)) * 8),
        "16_bits_565": bmp(16, bytes(range(32)) * 8, compression=3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F)),
        "32_bits": bmp(32, bytes(range(64)) * 8),
        "runs_of_8_bits": bmp(8, runs, compression=1, colours=256),
        "absolute_runs": bmp(8, absolute, compression=1, colours=256),
        "runs_of_4_bits": bmp(4, runs, compression=2, colours=16),
        "old_header": b"BM" + struct.pack("<IHHI", 26 + len(old_body), 0, 0, 26) + old_header + old_body,
    }


# What must be seen right


@image("rgb.jpg")
def _() -> bytes:
    return jpeg(picture())


@image("progressive.jpg")
def _() -> bytes:
    return jpeg(picture(), progressive=True)


@image("grey.jpg")
def _() -> bytes:
    return jpeg(picture().convert("L"))


@image("cmyk.jpg")
def _() -> bytes:
    return jpeg(picture().convert("CMYK"))


@image("ycck.jpg")
def _() -> bytes:
    """As Photoshop writes it: ink turned into luma and chroma, everything inverted."""
    ink = np.asarray(picture().convert("CMYK"))
    luma = np.asarray(Image.fromarray(np.ascontiguousarray(ink[..., :3])).convert("YCbCr"))
    stored = np.dstack([luma, 255 - ink[..., 3]])
    data = jpeg(Image.fromarray(255 - stored, "CMYK"))  # Pillow inverts what it writes
    transform = data.index(b"Adobe") + 11
    return data[:transform] + b"\x02" + data[transform + 1 :]


@image("rgb.png")
def _() -> bytes:
    return saved(picture(), "PNG")


@image("rgb.webp")
def _() -> bytes:
    return saved(picture(), "WEBP", lossless=True)


@image("rgb.gif")
def _() -> bytes:
    return saved(picture(), "GIF")


@image("rgb.bmp")
def _() -> bytes:
    return saved(picture(), "BMP")


@image("unused_alpha.bmp")
def _() -> bytes:
    """32 bits a pixel with an alpha mask, but the fourth byte was left at zero."""
    rgba = np.dstack([np.asarray(picture()), np.zeros((HEIGHT, WIDTH), np.uint8)])
    body = np.ascontiguousarray(rgba[::-1][..., [2, 1, 0, 3]]).tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 56, WIDTH, HEIGHT, 1, 32, 3, len(body), 0, 0, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 70 + len(body), 0, 0, 70) + info + body


@image("interlaced.png")
def _() -> bytes:
    pixels = np.asarray(picture())
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row.tobytes() for top, left, down, right in passes for row in pixels[top::down, left::right]]
    return png(rows, WIDTH, HEIGHT, 8, 2, interlaced=True)


@image("rgb_with_trns.png")
def _() -> bytes:
    """Blue is the transparent colour."""
    rows = [row.tobytes() for row in np.asarray(picture())]
    return png(rows, WIDTH, HEIGHT, 8, 2, before=chunk(b"tRNS", struct.pack(">HHH", *BLUE)))


@image("rgb16.png")
def _() -> bytes:
    pixels = (np.asarray(picture()).astype(np.uint16) * 257).astype(">u2")
    return png([row.tobytes() for row in pixels], WIDTH, HEIGHT, 16, 2)


@image("rgba16.png")
def _() -> bytes:
    """The picture, quite opaque."""
    pixels = np.dstack([np.asarray(picture()), np.full((HEIGHT, WIDTH), 255, np.uint8)]).astype(np.uint16) * 257
    return png([row.tobytes() for row in pixels.astype(">u2")], WIDTH, HEIGHT, 16, 6)


@image("palette_2_bits.png")
def _() -> bytes:
    rows = [b"\x00" * 4 + b"\x55" * 4] * (HEIGHT // 2) + [b"\xaa" * 4 + b"\xff" * 4] * (HEIGHT // 2)
    return png(rows, WIDTH, HEIGHT, 2, 3, before=chunk(b"PLTE", bytes((*RED, *GREEN, *BLUE, *WHITE))))


@image("grey16.png")
def _() -> bytes:
    """Half of all that 16 bits can say, everywhere."""
    return png([struct.pack(">H", 0x8000) * WIDTH] * HEIGHT, WIDTH, HEIGHT, 16, 0)


@image("grey16_with_trns.png")
def _() -> bytes:
    """Left half transparent, right half dark."""
    row = struct.pack(">H", 0x8000) * (WIDTH // 2) + struct.pack(">H", 0x1000) * (WIDTH // 2)
    return png([row] * HEIGHT, WIDTH, HEIGHT, 16, 0, before=chunk(b"tRNS", struct.pack(">H", 0x8000)))


@image("grey_alpha16.png")
def _() -> bytes:
    """Half-transparent black."""
    return png([struct.pack(">HH", 0, 0x8000) * WIDTH] * HEIGHT, WIDTH, HEIGHT, 16, 4)


@image("grey_alpha.png")
def _() -> bytes:
    return saved(Image.new("LA", (WIDTH, HEIGHT), (0, 128)), "PNG")


@image("one_bit.png")
def _() -> bytes:
    """Left half black, right half white."""
    return png([b"\x00\x00\xff\xff"] * HEIGHT, WIDTH, HEIGHT, 1, 0)


@image("palette_with_trns.png")
def _() -> bytes:
    """Red on the left, half-transparent black on the right."""
    row = bytes(WIDTH // 2) + b"\x01" * (WIDTH // 2)
    before = chunk(b"PLTE", bytes(RED) + bytes(3)) + chunk(b"tRNS", b"\xff\x80")
    return png([row] * HEIGHT, WIDTH, HEIGHT, 8, 3, before=before)


@image("transparent.png")
def _() -> bytes:
    """Nothing to see: black that is fully transparent."""
    return saved(Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0)), "PNG")


@image("transparent.webp")
def _() -> bytes:
    return saved(Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 128)), "WEBP", lossless=True)


@image("transparent.gif")
def _() -> bytes:
    return saved(Image.new("P", (WIDTH, HEIGHT), 0), "GIF", transparency=0)


def _register_turned() -> None:
    """The same picture, stored turned or mirrored, with the EXIF orientation that undoes it."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }

    def stored(orientation: int) -> Image.Image:
        turn = undo[orientation]
        return picture() if turn is None else picture().transpose(turn)

    for number in undo:
        IMAGES[f"orientation_{number}.jpg"] = lambda number=number: jpeg(
            stored(number), exif=b"Exif\x00\x00" + exif(number, "<" if number % 2 else ">")
        )
    IMAGES["orientation_6.png"] = lambda: insert_chunks(saved(stored(6), "PNG"), chunk(b"eXIf", exif(6)))
    IMAGES["orientation_6.webp"] = lambda: saved(stored(6), "WEBP", lossless=True, exif=b"Exif\x00\x00" + exif(6))


_register_turned()

for _kind, _extension in (("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png")):
    IMAGES[f"animated.{_extension}"] = lambda kind=_kind: saved(
        picture(),
        kind,
        save_all=True,
        append_images=[Image.new("RGB", (WIDTH, HEIGHT), "black")] * 2,
        duration=100,
        **({"lossless": True} if kind == "WEBP" else {}),
    )


@image("phone.jpg")
def _() -> bytes:
    """Several pictures in one file, as phones and stereo cameras write (MPO)."""
    return saved(picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))], quality=95, subsampling=0)


@image("rgb_with_preview.jpg")
def _() -> bytes:
    """The EXIF block holds a small JPEG of something else."""
    return insert_segment(jpeg(picture()), 0xE1, b"Exif\x00\x00" + exif(1) + jpeg(Image.new("RGB", (8, 8))))


@image("broken_exif.jpg")
def _() -> bytes:
    return insert_segment(jpeg(picture()), 0xE1, b"Exif\x00\x00II*\x00\xff\xff\xff\xff")


@image("exif_cut.jpg")
def _() -> bytes:
    """Says that it has 65,535 entries."""
    return insert_segment(jpeg(picture()), 0xE1, b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff")


@image("exif_orientation_9.jpg")
def _() -> bytes:
    return insert_segment(jpeg(picture()), 0xE1, b"Exif\x00\x00" + exif(9))


@image("broken_xmp.jpg")
def _() -> bytes:
    return insert_segment(jpeg(picture()), 0xE1, b"http://ns.adobe.com/xap/1.0/\x00<x:xmpmeta \xff\xfe\xc3(")


@image("broken_mpf.jpg")
def _() -> bytes:
    return insert_segment(jpeg(picture()), 0xE2, b"MPF\x00II*\x00\xff\xff\xff\xff")


@image("broken_photoshop.jpg")
def _() -> bytes:
    return insert_segment(jpeg(picture()), 0xED, b"Photoshop 3.0\x008BIM\x04")


@image("zip_behind.jpg")
def _() -> bytes:
    """A JPEG to a viewer and a sound archive to an unpacker, which begins at the end."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr(zipfile.ZipInfo("notes.txt"), "not a picture")
    return jpeg(picture()) + archive.getvalue()


@image("zip_in_comment.jpg")
def _() -> bytes:
    return insert_segment(jpeg(picture()), 0xFE, b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18))


@image("without_jfif.jpg")
def _() -> bytes:
    """Begins with its tables, as some cameras and programs write it."""
    data = jpeg(picture())
    return data[:2] + data[4 + int.from_bytes(data[4:6], "big") :]


@image("icc_bomb.png")
def _() -> bytes:
    """Three kilobytes that inflate to three megabytes of colour profile."""
    return insert_chunks(saved(picture(), "PNG"), chunk(b"iCCP", b"k\x00\x00" + zlib.compress(bytes(3_000_000), 9)))


@image("bad_iccp.png")
def _() -> bytes:
    return insert_chunks(saved(picture(), "PNG"), chunk(b"iCCP", b"x\x00\x00not zlib"))


@image("text_bomb.png")
def _() -> bytes:
    """Three kilobytes that inflate to three megabytes of text."""
    return insert_chunks(saved(picture(), "PNG"), chunk(b"zTXt", b"k\x00\x00" + zlib.compress(b" " * 3_000_000, 9)))


@image("empty_chunks.png")
def _() -> bytes:
    names = (b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tEXt", b"tIME", b"iTXt", b"zTXt", b"iCCP", b"bKGD", b"eXIf", b"acTL")
    return insert_chunks(saved(picture(), "PNG"), b"".join(chunk(name, b"") for name in names))


@image("bad_text_checksum.png")
def _() -> bytes:
    return insert_chunks(saved(picture(), "PNG"), chunk(b"tEXt", b"a\x00b", checksum=1))


@image("apng_without_frames.png")
def _() -> bytes:
    return insert_chunks(saved(picture(), "PNG"), chunk(b"acTL", struct.pack(">II", 0, 0)))


@image("one_pixel.png")
def _() -> bytes:
    return saved(Image.new("RGB", (1, 1), RED), "PNG")


for _kind, _extension in (("JPEG", "jpg"), ("GIF", "gif"), ("WEBP", "webp"), ("BMP", "bmp")):
    IMAGES[f"one_pixel.{_extension}"] = lambda kind=_kind: saved(
        Image.new("RGB", (1, 1), RED), kind, **{"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(kind, {})
    )


@image("tall.jpg")
def _() -> bytes:
    return jpeg(Image.new("RGB", (1, 20_000), RED), optimize=True)


@image("tall.png")
def _() -> bytes:
    return saved(Image.new("RGB", (1, 20_000), RED), "PNG")


@image("wide.png")
def _() -> bytes:
    return saved(Image.new("RGB", (20_000, 1), RED), "PNG")


@image("png_named.jpg")
def _() -> bytes:
    return saved(picture(), "PNG")


# What must be refused with a code


for _percent in (10, 50, 99):
    IMAGES[f"cut_at_{_percent}.jpg"] = lambda percent=_percent: _cut(jpeg(noise()), percent)
    IMAGES[f"cut_at_{_percent}.png"] = lambda percent=_percent: _cut(saved(noise(), "PNG"), percent)
    IMAGES[f"cut_at_{_percent}.gif"] = lambda percent=_percent: _cut(saved(noise(), "GIF"), percent)
    IMAGES[f"cut_at_{_percent}.webp"] = lambda percent=_percent: _cut(saved(noise(), "WEBP", lossless=True), percent)
    IMAGES[f"cut_at_{_percent}.bmp"] = lambda percent=_percent: _cut(saved(noise(), "BMP"), percent)


def _cut(data: bytes, percent: int) -> bytes:
    return data[: len(data) * percent // 100]


@image("cut_behind_preview.jpg")
def _() -> bytes:
    """Ends within the picture, but the preview in it has an end of its own."""
    preview = b"Exif\x00\x00" + exif(1) + jpeg(Image.new("RGB", (8, 8)))
    return insert_segment(_cut(jpeg(noise()), 80), 0xE1, preview)


@image("bad_pixel_checksum.png")
def _() -> bytes:
    data = bytearray(saved(noise(), "PNG"))
    data[data.index(b"IEND") - 5] ^= 0xFF
    return bytes(data)


@image("bad_header_checksum.png")
def _() -> bytes:
    data = bytearray(saved(picture(), "PNG"))
    data[32] ^= 0xFF
    return bytes(data)


@image("bad_adler.png")
def _() -> bytes:
    """The pixels' own checksum is wrong, the chunk's is right."""
    pixels = bytearray(zlib.compress(b"".join(b"\x00" + row.tobytes() for row in np.asarray(noise()))))
    pixels[200] ^= 0xFF
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(pixels)) + chunk(b"IEND", b"")


@image("no_pixels.png")
def _() -> bytes:
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


@image("huge_idat.png")
def _() -> bytes:
    """The pixels' chunk says that it has two gigabytes, but the pixels are all there."""
    data = saved(picture(), "PNG")
    at = data.index(b"IDAT")
    return data[: at - 4] + b"\x7f\xff\xff\xff" + data[at:]


@image("no_palette.png")
def _() -> bytes:
    return png([bytes(WIDTH)] * HEIGHT, WIDTH, HEIGHT, 8, 3)


@image("controls_in_chunk_name.png")
def _() -> bytes:
    """A chunk that no decoder may ignore, of a name that no log should be given, with a wrong checksum."""
    return insert_chunks(saved(picture(), "PNG"), chunk(b"A\n\x00\x1b", b"", checksum=1))


@image("jfif_header_only.jpg")
def _() -> bytes:
    return jpeg(picture())[:20]


@image("twelve_bits.jpg")
def _() -> bytes:
    return with_jpeg_header(jpeg(picture()), bits=12)


@image("arithmetic.jpg")
def _() -> bytes:
    """Announces arithmetic coding; what follows decodes to something, or not."""
    return with_jpeg_header(jpeg(picture()), marker=0xC9)


@image("no_size.jpg")
def _() -> bytes:
    return with_jpeg_header(jpeg(picture()), size=(0, 0))


@image("many_scans.jpg")
def _() -> bytes:
    data = jpeg(Image.new("L", (8, 8)), progressive=True)
    at = data.rindex(b"\xff\xda")
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00"
    return data[:at] + scan * 501 + b"\xff\xd9"


@image("many_scans_of_many_pixels.jpg")
def _() -> bytes:
    """Two kilobytes that would keep a decoder busy for half a minute."""
    data = jpeg(Image.new("L", (8, 8)), progressive=True)
    at, frame = data.rindex(b"\xff\xda"), data.index(b"\xff\xc2")
    head = data[: frame + 5] + struct.pack(">HH", 7_000, 7_000) + data[frame + 9 : at]
    return head + b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" * 150 + b"\xff\xd9"


@image("seven_bits.bmp")
def _() -> bytes:
    data = bytearray(saved(picture(), "BMP"))
    data[28:30] = struct.pack("<H", 7)
    return bytes(data)


@image("bomb.png")
def _() -> bytes:
    """A few dozen bytes that announce 900 million pixels."""
    return png([], 30_000, 30_000, 8, 2)


@image("bomb.jpg")
def _() -> bytes:
    return with_jpeg_header(jpeg(picture()), size=(65_500, 65_500))


@image("bomb.gif")
def _() -> bytes:
    data = saved(picture(), "GIF")
    return data[:6] + struct.pack("<HH", 65_535, 65_535) + data[10:]


@image("bomb_frame.gif")
def _() -> bytes:
    """The screen is small, the frame in it is not."""
    data = bytearray(saved(picture(), "GIF"))
    at = data.index(b",\x00\x00\x00\x00" + struct.pack("<HH", WIDTH, HEIGHT))
    data[at + 5 : at + 9] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


@image("bomb.webp")
def _() -> bytes:
    frame = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_383).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 4 + len(frame)) + b"WEBP" + frame


@image("bomb.bmp")
def _() -> bytes:
    data = saved(picture(), "BMP")
    return data[:18] + struct.pack("<ii", 60_000, 60_000) + data[26:]


@image("over_warning.png")
def _() -> bytes:
    """One pixel more than Pillow takes without a warning."""
    return png([], 89_478_486, 1, 1, 0)


@image("over_error.png")
def _() -> bytes:
    return png([], 178_956_971, 1, 1, 0)


for _name, _kind in (("photo.tiff", "TIFF"), ("photo.jp2", "JPEG2000"), ("photo.avif", "AVIF"), ("photo.ico", "ICO")):
    IMAGES[_name] = lambda kind=_kind: saved(picture(), kind)
for _name, _kind in (("photo.ppm", "PPM"), ("photo.eps", "EPS"), ("photo.pcx", "PCX")):
    IMAGES[_name] = lambda kind=_kind: saved(picture(), kind)
for _name, _kind in (("photo.sgi", "SGI"), ("photo.dds", "DDS")):
    IMAGES[_name] = lambda kind=_kind: saved(picture(), kind)

IMAGES |= {
    "photo.heic": lambda: b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(40),
    "photo.icns": lambda: b"icns\x00\x00\x00\x10" + bytes(8),
    "photo.pdf": lambda: b"%PDF-1.4\n%%EOF",
    "photo.psd": lambda: b"8BPS\x00\x01" + bytes(30),
    "photo.svg": lambda: b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    "photo.fits": lambda: b"SIMPLE  =                    T".ljust(2880),
    "gzip_bomb.fits": lambda: (
        b"".join(
            card.ljust(80)
            for card in (
                b"SIMPLE  =                    T",
                b"XTENSION= 'BINTABLE'",
                b"ZIMAGE  = T",
                b"ZCMPTYPE= 'GZIP_1'",
            )
        ).ljust(2880)
        + gzip.compress(bytes(1_500_000), mtime=0)
    ),
    "gzip_bomb.fits.gz": lambda: gzip.compress(b"SIMPLE  =                    T".ljust(3_000_000), mtime=0),
    "empty.jpg": lambda: b"",
    "photo.jxl": lambda: b"\xff\x0a" + bytes(30),
    "scan.dcm": lambda: bytes(128) + b"DICM" + bytes(20),
    "error_page.jpg": lambda: b"<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>",
    "error.json.jpg": lambda: b'{"error": {"code": 403, "message": "Forbidden"}}',
    "error.xml.jpg": lambda: b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
    "notes.jpg": lambda: b"BM is how a bitmap begins, but this is text; na\xc3\xafve text.\n",
    "archive.jpg": lambda: b"PK\x03\x04\x14\x00" + bytes(40),
    "video.jpg": lambda: b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00" + bytes(20),
    "zeros.jpg": lambda: bytes(1000),
    "one_byte.jpg": lambda: b"\xff",
    "two_bytes.jpg": lambda: b"\xff\xd8",
    "jpeg_start_only.jpg": lambda: b"\xff\xd8\xff",
    "png_signature_only.png": lambda: b"\x89PNG\r\n\x1a\n",
    "gif_signature_only.gif": lambda: b"GIF89a",
    "webp_signature_only.webp": lambda: b"RIFF\x04\x00\x00\x00WEBP",
    "random.jpg": lambda: np.random.default_rng(3).integers(128, 256, 300, dtype=np.uint8).tobytes(),
}


def make_images(folder: Path) -> dict[str, bytes]:
    """Write every image into the folder and return their bytes by name."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: make() for name, make in IMAGES.items()}
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return made


if __name__ == "__main__":
    make_images(Path(sys.argv[1]))
