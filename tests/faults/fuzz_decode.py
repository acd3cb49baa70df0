"""Feeds decode with damaged images: pixels of the right shape or an error with a code have to come out, nothing else.

``python tests/faults/fuzz_decode.py [--runs N] [--seconds S] [--seed N] [--plain] [corpus]`` runs until one of the two
is reached or something is found, and prints inputs, coverage and seconds. Atheris, where it is installed, looks for
inputs that reach new code and keeps them in ``corpus``; ``--plain``, and where it is not, damages the seeds at random,
the same way for the same seed. ``--replay FILE`` tries one input again.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_PIXELS = 1_000_000
"""Of an input. More would only make them slow, and the limit itself is another test's."""

HEIGHT, WIDTH = 8, 12
"""Of the pixels that come out; not square, so that a turned picture shows."""

LARGEST_BYTES = 16_384
SLOWEST_S = 20
"""After which an input counts as a hang; the slowest takes well below a second."""

MOST_MEMORY_MB = 1_500
"""Of the process that fuzzes; it grows with the corpus that it keeps."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
LENGTHS = (b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x00\x00\xff\xff", b"\x00\x00\x00\x01", b"\x80\x00\x00\x00")


class BrokenPromiseError(AssertionError):
    """decode did what its docstring does not say."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What came out of fuzzing."""

    inputs: int
    seconds: float
    codes: Counter[str]
    """How often each error came out; ``pixels`` where it was a picture. Empty under Atheris, which counts nothing."""
    coverage: str
    found: Path | None
    """The input that broke a promise."""
    output: str = ""
    """What Atheris wrote."""


def outcome_of(data: bytes) -> str:
    """Decode some bytes and return the error's code, or ``pixels``.

    Raises:
        BrokenPromiseError: neither came out as promised.
    """
    import numpy as np

    from inference.decoding import decode_image
    from inference.errors import ImageError
    from inference.types import Preprocessing

    preprocessing = Preprocessing(HEIGHT, WIDTH, crop_fraction=0.875, resize_filter="bicubic")
    try:
        pixels = decode_image(data, preprocessing, max_pixels=MAX_PIXELS)
    except ImageError as error:
        message = str(error)
        if "code" not in vars(type(error)) or type(error) is ImageError:
            raise BrokenPromiseError(f"{type(error).__name__} has no code of its own") from error
        if not message or len(message) > 500 or not message.isprintable():
            raise BrokenPromiseError(f"not one line of printable text: {message!r}") from error
        return error.code
    except Exception as error:
        raise BrokenPromiseError(f"{type(error).__name__} came out, which is no ImageError") from error
    if (pixels.shape, pixels.dtype, pixels.flags.c_contiguous) != ((HEIGHT, WIDTH, 3), np.uint8, True):
        raise BrokenPromiseError(f"pixels of shape {pixels.shape} and type {pixels.dtype}")
    return "pixels"


def seeds() -> dict[str, bytes]:
    """Return what the damage is done to, by name: every image of the tests and every variant of the allowed formats."""
    from PIL import Image

    from tests.data.make_images import IMAGES, bmp_variants, noise, picture, saved

    made = {name: make() for name, make in IMAGES.items()}
    ways = ((30, 2, False, True), (90, 1, True, True), (75, 0, True, False))
    for quality, subsampling, progressive, optimize in ways:
        for mode in ("RGB", "L", "CMYK"):
            made[f"{mode}-{quality}.jpg"] = saved(
                noise().convert(mode),
                "JPEG",
                quality=quality,
                subsampling=subsampling,
                progressive=progressive,
                optimize=optimize,
            )
    made["restarts.jpg"] = saved(noise(), "JPEG", quality=50, restart_marker_blocks=2)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        source = noise().convert("L").convert("I;16") if mode == "I;16" else noise().convert(mode)
        made[f"{mode}.png"] = saved(source, "PNG")
    for bits in (1, 2, 4):
        made[f"palette{bits}.png"] = saved(noise().convert("P").quantize(2**bits), "PNG", bits=bits)
    for lossless in (False, True):
        for mode in ("RGB", "RGBA"):
            alpha = picture().convert("L")
            source = noise().convert(mode)
            if mode == "RGBA":
                source.putalpha(alpha)
            made[f"{mode}-{lossless}.webp"] = saved(source, "WEBP", lossless=lossless, quality=40)
    made["animated-lossy.webp"] = saved(
        picture().convert("RGBA"), "WEBP", save_all=True, append_images=[noise().convert("RGBA")], duration=40
    )
    made["interlaced.gif"] = saved(noise().convert("P"), "GIF", interlace=1)
    made["frames.gif"] = saved(
        picture().convert("P"), "GIF", save_all=True, append_images=[noise().convert("P")], disposal=2, loop=0
    )
    made["frame_with_hole.gif"] = saved(
        Image.new("P", (9, 7), 3), "GIF", transparency=3, comment=b"a comment", background=1
    )
    made |= {f"variant_{name}.bmp": data for name, data in bmp_variants().items()}
    return made


def damaged(images: list[bytes], generator: random.Random) -> bytes:
    """Return one of the images with some damage, all drawn from the generator.

    Bits flip, bytes are overwritten, lost or doubled, ends are cut, fields become lengths that no image has, and two
    images are spliced. Half of the results get their checksums and lengths mended, so that the damage is found later.
    """
    data = bytearray(generator.choice(images))
    is_inside = generator.random() < 0.3
    rows = _inflated(data) if is_inside else None
    target = data if rows is None else rows
    for _ in range(generator.choice((1, 1, 2, 3, 6))):
        _damage(target, images, generator)
    if rows is not None:
        data = _deflated(data, rows)
    if generator.random() < 0.5:
        return mended(bytes(data))
    return bytes(data)


def _damage(data: bytearray, images: list[bytes], generator: random.Random) -> None:
    # Half of the damage falls on the first bytes, which say what all others mean.
    end = len(data) if generator.random() < 0.5 else min(len(data), 64)
    at = generator.randrange(end + 1)
    match generator.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << generator.randrange(8)
        case 1:
            data[at : at + 1] = bytes((generator.randrange(256),))
        case 2:
            del data[at : at + generator.randint(1, 40)]
        case 3:
            data[at:at] = data[at : at + generator.randint(1, 40)]
        case 4:
            del data[at:]
        case 5:
            size = generator.choice((2, 4))
            data[at : at + size] = generator.choice(LENGTHS)[:size]
        case 6:
            field = data[at : at + 2]
            near = (int.from_bytes(field, "big") + generator.choice((-1, 1, 256, -256))) % 65_536
            data[at : at + 2] = near.to_bytes(2, "big")
        case _:
            other = generator.choice(images)
            data[at:] = other[generator.randrange(len(other) + 1) :]


def mended(data: bytes) -> bytes:
    """Return bytes whose checksums (PNG) and length (WebP, BMP) are right, whatever else is wrong with them."""
    if data.startswith(PNG_SIGNATURE):
        parts, position = [PNG_SIGNATURE], len(PNG_SIGNATURE)
        while position + 12 <= len(data):
            length = int.from_bytes(data[position : position + 4], "big")
            end = position + 12 + length
            if end > len(data):
                break
            body = data[position + 4 : end - 4]
            parts += [data[position : position + 4], body, struct.pack(">I", zlib.crc32(body))]
            position = end
        return b"".join([*parts, data[position:]])
    if data.startswith(b"RIFF") and len(data) >= 12:
        return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    if data.startswith(b"BM") and len(data) >= 6:
        return data[:2] + struct.pack("<I", len(data)) + data[6:]
    return data


def _inflated(data: bytearray) -> bytearray | None:
    """Return what the pixels of a PNG are before they are compressed, if it is one."""
    at = data.find(b"IDAT")
    if not data.startswith(PNG_SIGNATURE) or at < 4:
        return None
    try:
        inflater = zlib.decompressobj()
        return bytearray(inflater.decompress(bytes(data[at + 4 :]), LARGEST_BYTES))
    except zlib.error:
        return None


def _deflated(data: bytearray, rows: bytearray) -> bytearray:
    at = data.index(b"IDAT")
    end = at + 4 + int.from_bytes(data[at - 4 : at], "big") + 4
    body = zlib.compress(bytes(rows), 1)
    chunk = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    return data[: at - 4] + chunk + data[end:]


def fuzz_plainly(seed: int, folder: Path, *, runs: int, seconds: float = float("inf")) -> Findings:
    """Damage seeds at random in this process, the same way for the same seed, until something is found.

    Args:
        seed: What all randomness comes from.
        folder: Where an input that breaks a promise is kept.
        runs: Inputs at most.
        seconds: Time at most.
    """
    generator = random.Random(seed)  # noqa: S311 - repeatable, not secret
    images = list(seeds().values())
    codes: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(runs):
        if time.monotonic() - began > seconds:
            break
        data = damaged(images, generator)
        try:
            codes[outcome_of(data)] += 1
        except BrokenPromiseError:
            found = folder / f"input-{number}-of-seed-{seed}"
            found.write_bytes(data)
            output = traceback.format_exc()
            return Findings(number + 1, time.monotonic() - began, codes, "not measured", found, output)
    return Findings(codes.total(), time.monotonic() - began, codes, "not measured", None)


def fuzz_by_coverage(seed: int, folder: Path, corpus: Path, *, runs: int, seconds: float) -> Findings:
    """Let Atheris look for inputs that reach new code, in a process of its own, until something is found.

    Args:
        seed: What libFuzzer's randomness comes from; with time and threads about, no run repeats another exactly.
        folder: Where an input that breaks a promise, kills the process, hangs or takes too much memory is kept.
        corpus: Where it starts from, beside the seeds, and where it keeps inputs that reached new code.
        runs: Inputs at most.
        seconds: Time at most.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="seeds-") as started_from:
        for name, data in seeds().items():
            (Path(started_from) / name).write_bytes(data)
        command = [
            *(sys.executable, __file__, "--target", f"-runs={runs}", f"-max_total_time={max(1, int(seconds))}"),
            *(f"-seed={seed % 2**31 or 1}", f"-timeout={SLOWEST_S}", f"-rss_limit_mb={MOST_MEMORY_MB}"),
            *(f"-max_len={LARGEST_BYTES}", "-len_control=0", "-print_final_stats=1"),
            *(f"-artifact_prefix={folder}/", str(corpus), started_from),
        ]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
        )
    output = done.stdout
    states = re.findall(r"^#(\d+)\s+\w+.* cov: (\d+) ft: (\d+)", output, re.MULTILINE)
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
    inputs = int(executed[1]) if executed else int(states[-1][0]) if states else 0
    coverage = f"{int(states[-1][1]):,} edges, {int(states[-1][2]):,} features" if states else "none"
    found = sorted(path for path in folder.iterdir() if path.name.startswith(("crash-", "timeout-", "oom-", "leak-")))
    if done.returncode and not found:
        found = [folder / f"exit-{done.returncode}"]
        found[0].write_text(output, encoding="utf-8")
    return Findings(inputs, time.monotonic() - began, Counter(), coverage, found[0] if found else None, output)


def has_atheris() -> bool:
    """Say whether this platform has the fuzzer that is led by coverage."""
    return importlib.util.find_spec("atheris") is not None


def _target(arguments: list[str]) -> None:
    """Be the process that Atheris drives."""
    import atheris

    with atheris.instrument_imports(include=["inference.decoding", "PIL"]):
        import inference.decoding  # noqa: F401
    warnings.simplefilter("ignore")

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        generator = random.Random(seed)  # noqa: S311 - repeatable, not secret
        kind = generator.random()
        if kind < 0.5:
            changed = atheris.Mutate(data, most)
        else:
            changed = bytearray(data)
            rows = _inflated(changed) if kind > 0.8 else None
            for _ in range(generator.choice((1, 1, 2, 4))):
                _damage(changed if rows is None else rows, [data], generator)
            changed = bytes(changed if rows is None else _deflated(changed, rows))
        return (mended(changed) if generator.random() < 0.7 else changed)[:most]

    def try_input(data: bytes) -> None:
        outcome_of(data)

    options: dict[str, Any] = {"custom_mutator": mutate}
    atheris.Setup([sys.argv[0], *arguments], try_input, **options)
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    """Fuzz as the command line says. Returns 1 if something was found."""
    if arguments[:1] == ["--target"]:
        _target(arguments[1:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs at most")
    parser.add_argument("--seconds", type=float, default=120, help="time at most")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    parser.add_argument("--plain", action="store_true", help="damage at random, led by no coverage")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="try one input and show what comes out")
    parser.add_argument("corpus", type=Path, nargs="?", help="folder of inputs that reached new code")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if chosen.replay is not None:
        print(outcome_of(chosen.replay.read_bytes()))  # noqa: T201
        return 0

    folder = Path(tempfile.mkdtemp(prefix="nightlabel-fuzz-"))
    corpus = chosen.corpus or folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    print(f"seed {chosen.seed}", flush=True)  # noqa: T201
    if chosen.plain or not has_atheris():
        findings = fuzz_plainly(chosen.seed, folder, runs=chosen.runs, seconds=chosen.seconds)
    else:
        findings = fuzz_by_coverage(chosen.seed, folder, corpus, runs=chosen.runs, seconds=chosen.seconds)
    print(  # noqa: T201
        f"{findings.inputs:,} inputs in {findings.seconds:.0f} s; coverage: {findings.coverage}"
        + "".join(f"; {code}: {count:,}" for code, count in sorted(findings.codes.items()))
    )
    if findings.found is None:
        print("nothing found")  # noqa: T201
        shutil.rmtree(folder)
        return 0
    print(f"{findings.output[-4000:]}\nfound: {findings.found} (try it again with --replay)")  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
