"""What becomes of every kind of image: the right picture, or an error with a stable code."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from inference.decoding import LEAST_SHRUNK, MAX_SCANNED_PIXELS, decode_image
from inference.errors import (
    FormatNotAllowedError,
    ImageError,
    ImageTooLargeError,
    InferenceError,
    NotAnImageError,
    TruncatedImageError,
    UndecodableImageError,
)
from inference.types import Preprocessing
from tests.data.make_images import (
    BLUE,
    GREEN,
    HEIGHT,
    IMAGES,
    RED,
    WHITE,
    WIDTH,
    bmp_variants,
    chunk,
    insert_chunks,
    insert_segment,
    jpeg,
    picture,
    saved,
)

SMALL = Preprocessing(height=8, width=8, crop_fraction=0.875, resize_filter="bicubic")
HALF_ON_WHITE = (127, 127, 127)
ALL_AS_IT_IS = ((RED, GREEN), (BLUE, WHITE))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    from tests.data.make_images import make_images

    return make_images(tmp_path_factory.mktemp("images"))


def quarters(pixels: np.ndarray) -> np.ndarray:
    """A colour of each quarter, away from where the quarters meet, shape (2, 2, 3)."""
    height, width, _ = pixels.shape
    return pixels[[height // 6, -1 - height // 6]][:, [width // 6, -1 - width // 6]].astype(int)


@pytest.mark.parametrize(
    "name",
    [
        *("rgb.jpg", "progressive.jpg", "rgb.png", "rgb.webp", "rgb.gif", "rgb.bmp", "png_named.jpg", "interlaced.png"),
        *("cmyk.jpg", "ycck.jpg", "rgb16.png", "rgba16.png", "unused_alpha.bmp", "phone.jpg"),
        *("animated.gif", "animated.webp", "animated.png", "apng_without_frames.png"),
        *(f"orientation_{number}.jpg" for number in range(1, 9)),
        *("orientation_6.png", "orientation_6.webp"),
        *("broken_exif.jpg", "exif_cut.jpg", "exif_orientation_9.jpg", "broken_xmp.jpg", "broken_mpf.jpg"),
        *("broken_photoshop.jpg", "rgb_with_preview.jpg", "zip_behind.jpg", "zip_in_comment.jpg"),
        *("without_jfif.jpg", "palette_2_bits.png", "icc_bomb.png", "huge_idat.png"),
        *("bad_iccp.png", "text_bomb.png", "empty_chunks.png", "bad_text_checksum.png"),
    ],
)
def test_the_picture_is_seen_as_a_viewer_shows_it(images, name):
    pixels = decode_image(images[name], SMALL)

    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_allclose(quarters(pixels), ALL_AS_IT_IS, atol=3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grey.jpg", (((84,) * 3, (128,) * 3), ((58,) * 3, WHITE))),
        ("grey16.png", (((128,) * 3,) * 2,) * 2),
        ("grey16_with_trns.png", ((WHITE, (16,) * 3),) * 2),
        ("grey_alpha.png", ((HALF_ON_WHITE,) * 2,) * 2),
        ("grey_alpha16.png", ((HALF_ON_WHITE,) * 2,) * 2),
        ("one_bit.png", (((0,) * 3, WHITE),) * 2),
        ("palette_with_trns.png", ((RED, HALF_ON_WHITE),) * 2),
        ("rgb_with_trns.png", ((RED, GREEN), (WHITE, WHITE))),
        ("transparent.png", ((WHITE,) * 2,) * 2),
        ("transparent.gif", ((WHITE,) * 2,) * 2),
        ("transparent.webp", ((HALF_ON_WHITE,) * 2,) * 2),
        *((f"one_pixel.{kind}", ((RED,) * 2,) * 2) for kind in ("jpg", "png", "gif", "webp", "bmp")),
        ("tall.jpg", ((RED,) * 2,) * 2),
        ("tall.png", ((RED,) * 2,) * 2),
        ("wide.png", ((RED,) * 2,) * 2),
    ],
)
def test_unusual_pixels_become_the_right_colours_on_white(images, name, expected):
    np.testing.assert_allclose(quarters(decode_image(images[name], SMALL)), expected, atol=2)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        *((f"cut_at_{p}.{kind}", TruncatedImageError, "ends too early") for p in (10, 50, 99) for kind in
          ("jpg", "png", "gif", "webp", "bmp")),
        ("cut_behind_preview.jpg", TruncatedImageError, "the JPEG ends too early"),
        ("jpeg_start_only.jpg", TruncatedImageError, "the JPEG ends too early"),
        ("png_signature_only.png", TruncatedImageError, "the PNG ends too early"),
        ("gif_signature_only.gif", TruncatedImageError, "the GIF ends too early"),
        ("webp_signature_only.webp", TruncatedImageError, "the WebP ends too early"),
        ("bad_pixel_checksum.png", UndecodableImageError, "wrong checksum of its chunk IDAT"),
        ("bad_header_checksum.png", UndecodableImageError, "wrong checksum of its chunk IHDR"),
        ("bad_adler.png", UndecodableImageError, "broken data stream"),
        ("no_palette.png", UndecodableImageError, "its palette is missing"),
        ("controls_in_chunk_name.png", UndecodableImageError, "wrong checksum of its chunk A???"),
        ("jfif_header_only.jpg", TruncatedImageError, "the JPEG ends too early"),
        ("no_pixels.png", UndecodableImageError, "the PNG of 45 bytes"),
        ("twelve_bits.jpg", UndecodableImageError, "12-bit"),
        ("no_size.jpg", UndecodableImageError, "the JPEG of"),
        ("many_scans.jpg", UndecodableImageError, "scans, more than the 500 allowed"),
        ("many_scans_of_many_pixels.jpg", UndecodableImageError, "155 scans of 49,000,000 pixels"),
        ("seven_bits.bmp", UndecodableImageError, "pixel depth"),
        ("bomb.png", ImageTooLargeError, "30,000 x 30,000"),
        ("bomb.jpg", ImageTooLargeError, "65,500 x 65,500"),
        ("bomb.gif", ImageTooLargeError, "65,535 x 65,535"),
        ("bomb_frame.gif", ImageTooLargeError, "the GIF announces"),
        ("bomb.webp", ImageTooLargeError, "16,384 x 16,384"),
        ("bomb.bmp", ImageTooLargeError, "60,000 x 60,000"),
        ("over_warning.png", ImageTooLargeError, "89,478,486"),
        ("over_error.png", ImageTooLargeError, "178,956,971"),
        ("photo.tiff", FormatNotAllowedError, "TIFF"),
        ("photo.jp2", FormatNotAllowedError, "JPEG 2000"),
        ("photo.avif", FormatNotAllowedError, "AVIF"),
        ("photo.heic", FormatNotAllowedError, "HEIC"),
        ("photo.ico", FormatNotAllowedError, "ICO"),
        ("photo.ppm", FormatNotAllowedError, "PNM"),
        ("photo.eps", FormatNotAllowedError, "EPS"),
        ("photo.pdf", FormatNotAllowedError, "PDF"),
        ("photo.pcx", FormatNotAllowedError, "PCX"),
        ("photo.sgi", FormatNotAllowedError, "SGI"),
        ("photo.dds", FormatNotAllowedError, "DDS"),
        ("photo.icns", FormatNotAllowedError, "ICNS"),
        ("photo.psd", FormatNotAllowedError, "Photoshop"),
        ("photo.svg", FormatNotAllowedError, "SVG"),
        ("photo.fits", FormatNotAllowedError, "FITS"),
        ("gzip_bomb.fits", FormatNotAllowedError, "FITS"),
        ("gzip_bomb.fits.gz", NotAnImageError, "gzip data"),
        ("photo.jxl", FormatNotAllowedError, "JPEG XL"),
        ("scan.dcm", FormatNotAllowedError, "DICOM"),
        ("error_page.jpg", NotAnImageError, "an HTML page"),
        ("error.json.jpg", NotAnImageError, "JSON"),
        ("error.xml.jpg", NotAnImageError, "XML"),
        ("notes.jpg", NotAnImageError, "text"),
        ("archive.jpg", NotAnImageError, "a zip archive"),
        ("video.jpg", NotAnImageError, "video"),
        ("zeros.jpg", NotAnImageError, "1,000 zero bytes"),
        ("empty.jpg", NotAnImageError, "0 bytes of unknown kind"),
        ("one_byte.jpg", NotAnImageError, "1 byte of unknown kind"),
        ("two_bytes.jpg", NotAnImageError, "2 bytes of unknown kind"),
        ("random.jpg", NotAnImageError, "300 bytes of unknown kind"),
    ],
)  # fmt: skip
def test_what_cannot_be_decoded_is_refused_with_a_code_and_a_sentence(images, name, error, says):
    with pytest.raises(InferenceError) as caught:
        decode_image(images[name], SMALL)

    assert type(caught.value) is error
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tests_look_at_every_image_that_is_made():
    looked_at = {
        mark_args[0] if isinstance(mark_args, tuple) else mark_args
        for test in (
            test_the_picture_is_seen_as_a_viewer_shows_it,
            test_unusual_pixels_become_the_right_colours_on_white,
            test_what_cannot_be_decoded_is_refused_with_a_code_and_a_sentence,
        )
        for mark_args in test.pytestmark[0].args[1]
    }

    assert set(IMAGES) - looked_at == {"arithmetic.jpg"}


def test_an_arithmetic_coded_jpeg_gives_pixels_or_a_code(images):
    """Which of them is the codec library's choice, and it may be built with or without this coding."""
    try:
        outcome = decode_image(images["arithmetic.jpg"], SMALL).shape
    except UndecodableImageError as error:
        outcome = error.code

    assert outcome in {(8, 8, 3), "undecodable"}


def test_a_decoder_that_gets_no_memory_says_so():
    """In a process that may have little more than it has."""
    script = """
import io, resource
from PIL import Image
from inference.decoding import decode_image
from inference.errors import DecoderOutOfMemoryError
from inference.types import Preprocessing

encoded = io.BytesIO()
Image.new("RGB", (7_000, 6_000)).save(encoded, "PNG", compress_level=1)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 100_000_000,) * 2)
try:
    decode_image(encoded.getvalue(), Preprocessing(8, 8, 0.875, "bilinear"))
except DecoderOutOfMemoryError as error:
    print(error.code)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "decoder_out_of_memory\n"


def test_the_test_images_stay_small_and_are_the_same_every_time(images):
    assert {name: len(data) for name, data in images.items() if len(data) > 5_000} == {"many_scans.jpg": 5281}
    assert {name: make() for name, make in IMAGES.items()} == images


def test_the_limit_on_pixels_is_exact():
    data = saved(picture(), "PNG")

    assert decode_image(data, SMALL, max_pixels=WIDTH * HEIGHT).shape == (8, 8, 3)
    with pytest.raises(ImageTooLargeError, match="more than the 767 allowed"):
        decode_image(data, SMALL, max_pixels=WIDTH * HEIGHT - 1)


def test_a_bomb_is_refused_before_it_costs_time_or_memory(images):
    started = time.monotonic()
    for name in ("bomb.png", "bomb.jpg", "bomb.gif", "bomb_frame.gif", "bomb.webp", "bomb.bmp", "over_error.png"):
        with pytest.raises(ImageTooLargeError):
            decode_image(images[name], SMALL)

    assert time.monotonic() - started < 1


def test_the_crop_is_the_centre_square_of_the_shorter_side():
    pixels = np.zeros((16, 40, 3), np.uint8)
    pixels[4:12, 16:24] = 255  # the middle half of the shorter side
    centre = Preprocessing(height=8, width=8, crop_fraction=0.5, resize_filter="nearest")

    assert (decode_image(saved(Image.fromarray(pixels), "PNG"), centre) == 255).all()
    wider = Preprocessing(height=8, width=8, crop_fraction=0.75, resize_filter="nearest")
    assert not (decode_image(saved(Image.fromarray(pixels), "PNG"), wider) == 255).all()


@pytest.mark.parametrize("resize_filter", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_shrinking_agrees_with_pillow_on_the_same_crop(resize_filter):
    photo = Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    preprocessing = Preprocessing(height=10, width=12, crop_fraction=0.875, resize_filter=resize_filter)

    expected = photo.crop((3, 11, 45, 53)).resize((12, 10), Image.Resampling[resize_filter.upper()])

    assert (decode_image(saved(photo, "PNG"), preprocessing) == np.asarray(expected)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(41, 64), (64, 41), (41, 63), (42, 42)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_turned_image_gives_the_pixels_of_one_that_was_turned_before_to_the_bit(orientation, size, mode):
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    stored = Image.fromarray(np.random.default_rng(6).integers(0, 256, (*size, *channels), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = io.BytesIO()
    stored.save(turned, "PNG", exif=exif)
    preprocessing = Preprocessing(height=8, width=10, crop_fraction=0.5, resize_filter="bicubic")

    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(turned.getvalue())))

    expected = decode_image(saved(upright, "PNG"), preprocessing)
    assert np.array_equal(decode_image(turned.getvalue(), preprocessing), expected)


@pytest.mark.parametrize("number", range(1, 9))
def test_turning_comes_out_right_for_a_model_whose_input_is_not_square(images, number):
    preprocessing = Preprocessing(height=6, width=12, crop_fraction=1.0, resize_filter="bilinear")

    pixels = decode_image(images[f"orientation_{number}.jpg"], preprocessing)

    assert pixels.shape == (6, 12, 3)
    np.testing.assert_allclose(quarters(pixels), ALL_AS_IT_IS, atol=6)


def landscape(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture as photos are: with much going on, and little of it from one pixel to the next."""
    coarse = np.random.default_rng(8).integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def decoded_in_full(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """What the whole picture, turned upright and cropped in whole pixels, looks like when it is resized."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    side = int(preprocessing.crop_fraction * min(picture.size))
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    size = (preprocessing.width, preprocessing.height)
    return np.asarray(square.resize(size, Image.Resampling[preprocessing.resize_filter.upper()])).astype(int)


MODEL = Preprocessing(height=40, width=40, crop_fraction=0.875, resize_filter="bicubic")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(641, 900), (901, 640), (1001, 1003)])
def test_a_large_jpeg_shows_what_its_full_decode_shows_at_the_same_place(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(landscape(*size), exif=exif)

    expected = decoded_in_full(data, MODEL)
    difference = np.abs(decode_image(data, MODEL) - expected)

    a_pixel_off = np.abs(expected[1:, 1:] - expected[:-1, :-1]).mean()
    assert difference.mean() < a_pixel_off / 20
    assert difference.max() < 16


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_large_jpeg_of_every_kind_has_the_colours_of_its_full_decode(mode, options):
    data = jpeg(landscape(700, 600, mode), **options)

    assert np.abs(decode_image(data, MODEL) - decoded_in_full(data, MODEL)).mean() < 1.5


def shrunk_to(size: tuple[int, int], preprocessing: Preprocessing) -> float:
    """By what the sides of a JPEG were divided, as the memory shows that was asked for."""
    asked = []

    @contextmanager
    def reserve(wanted: int):
        asked.append(wanted)
        yield

    data = jpeg(Image.new("RGB", size))
    decode_image(data, preprocessing, reserve=reserve)
    [wanted] = asked
    return (9 * size[0] * size[1] / (wanted - len(data))) ** 0.5


def test_a_jpeg_is_decoded_at_the_smallest_size_that_leaves_more_than_the_model_sees():
    whole = Preprocessing(height=40, width=32, crop_fraction=1.0, resize_filter="bilinear")
    least = int(LEAST_SHRUNK * 40)

    sides = (least, 2 * least - 1, 2 * least, 4 * least, 8 * least, 2000)
    found = [shrunk_to((side, 2 * side), whole) for side in sides]

    assert found == pytest.approx([1, 1, 2, 4, 8, 8], rel=0.01)


def test_a_jpeg_that_is_not_much_larger_than_the_model_sees_is_decoded_to_the_last_bit():
    side = 2 * int(LEAST_SHRUNK * 40) - 1
    data = jpeg(landscape(side, side))
    whole = Preprocessing(height=40, width=40, crop_fraction=1.0, resize_filter="bicubic")

    assert (decode_image(data, whole) == decoded_in_full(data, whole)).all()


def test_a_model_that_sees_single_pixels_sees_those_of_the_full_decode():
    data = jpeg(landscape(1000, 800))
    nearest = Preprocessing(height=40, width=40, crop_fraction=0.875, resize_filter="nearest")

    assert (decode_image(data, nearest) == decoded_in_full(data, nearest)).all()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_large_jpeg_that_was_cut_short_is_refused_though_less_of_it_is_decoded(progressive):
    data = jpeg(landscape(1000, 800), progressive=progressive)

    with pytest.raises(TruncatedImageError):
        decode_image(data[: len(data) * 9 // 10], MODEL)


def test_colours_do_not_bleed_out_of_what_is_transparent():
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, 8:] = (255, 255, 255, 255)  # the left half is black, but nobody can see it

    assert (decode_image(saved(Image.fromarray(pixels), "PNG"), SMALL) == 255).all()


def test_a_jpeg_with_hundreds_of_metadata_segments_is_read_and_with_thousands_refused():
    sound = jpeg(picture())
    many, too_many = sound, sound[:2] + b"\xff\xfe\x00\x02" * 5_001 + sound[2:]
    for _ in range(300):
        many = insert_segment(many, 0xE2, b"ICC_PROFILE\x00" + bytes(50))

    np.testing.assert_allclose(quarters(decode_image(many, SMALL)), ALL_AS_IT_IS, atol=3)
    with pytest.raises(UndecodableImageError, match="segments"):
        decode_image(too_many, SMALL)


def test_megabytes_of_text_and_colour_profile_cost_no_image_its_label():
    text = insert_chunks(saved(picture(), "PNG"), chunk(b"tEXt", b"k\x00" + b"x" * 2_000_000))
    inflated = insert_chunks(
        saved(picture(), "PNG"), chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(70_000_000), 1))
    )
    profile = jpeg(picture())
    for _ in range(64):
        profile = insert_segment(profile, 0xE2, b"ICC_PROFILE\x00\x01\x40" + bytes(65_000))

    for data in (text, inflated, profile):
        np.testing.assert_allclose(quarters(decode_image(data, SMALL)), ALL_AS_IT_IS, atol=3)


@pytest.mark.parametrize("name", sorted(bmp_variants()))
def test_every_packing_of_a_bmp_is_read_as_its_other_readers_do(name):
    data = bmp_variants()[name]
    whole = Preprocessing(height=8, width=16, crop_fraction=1.0, resize_filter="nearest")
    with Image.open(io.BytesIO(data)) as image:
        expected = image.convert("RGB").crop((4, 0, 12, 8)).resize((16, 8), Image.Resampling.NEAREST)

    assert (decode_image(data, whole) == np.asarray(expected)).all()


def test_the_limit_on_scanned_pixels_lets_ordinary_progressive_images_pass():
    progressive = jpeg(Image.new("L", (64, 64)), progressive=True)

    assert MAX_SCANNED_PIXELS >= 64 * 50_000_000, "the most scans that encoders write, at the most pixels allowed"
    assert decode_image(progressive, SMALL).shape == (8, 8, 3)


def test_threads_decode_without_disturbing_each_other(images):
    names = ["rgb.jpg", "cmyk.jpg", "grey16.png", "animated.gif", "orientation_6.webp", "palette_with_trns.png"]
    alone = {name: decode_image(images[name], SMALL) for name in names}
    barrier = threading.Barrier(4)

    def decode_all(seed: int) -> list[str]:
        order = names * 20
        random.Random(seed).shuffle(order)  # noqa: S311 - repeatable, not secret
        barrier.wait()
        return [name for name in order if not (decode_image(images[name], SMALL) == alone[name]).all()]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(decode_all, range(4))) == [[], [], [], []]


def test_pillow_is_left_as_it_was_found(images):
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    for data in images.values():
        try:
            decode_image(data, SMALL)
        except ImageError:
            continue

    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before
