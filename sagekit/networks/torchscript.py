"""The tensors of a TorchScript archive, such as OpenAI's own ``ViT-B-16.pt``, without running anything that it holds.

``torch.jit.load`` builds a program and may run parts of it; ``torch.load(weights_only=True)`` refuses these archives. One is
a zip file: ``data.pkl`` is a pickle of the modules' attributes, ``data/0, 1, ...`` are the bytes of the tensors, and the
code lies beside them. Here the code is never opened, and the pickle is read by an unpickler whose every name is one of

    __torch__...             a module: an inert object that keeps its attributes
    _rebuild_tensor_v2       a view into the bytes
    torch.HalfStorage, ...   a type of number
    OrderedDict, the markers of typed lists

Any other name ends in a ``UserError``.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError

_NUMBERS = {"HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16, "FloatStorage": torch.float32,
            "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
            "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool}


def is_archive(path: Path) -> bool:
    """Whether the file is a TorchScript archive; what ``torch.save`` writes is a zip file too, but has no constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the archive by its place among the modules, on the CPU. Raises ``UserError`` for a damaged archive, or
    one that names anything but modules and tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).removesuffix("constants.pkl")
            with archive.open(f"{root}data.pkl") as file:
                return dict(_walk(_Attributes(file, archive, f"{root}data/").load(), ""))
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except Exception as error:  # whatever a damaged pickle or zip file raises
        raise UserError(f"{path} is a damaged TorchScript archive ({type(error).__name__}).") from None


class _Module:
    """What stands for a scripted module: only its attributes."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


def _walk(found: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(found, Tensor):
        yield name, found
    elif isinstance(inside := getattr(found, "attributes", None), dict):
        for key, value in inside.items():
            yield from _walk(value, f"{name}.{key}" if name else str(key))


class _Attributes(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if module == "torch" and name in _NUMBERS:
            return _NUMBERS[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":
            return _plain
        raise UserError(f"holds '{module}.{name}', which is not loaded; save a plain state dict.")

    def persistent_load(self, pid: Any) -> Tensor:
        _, numbers, key, *_ = pid
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.folder}{key}"))
            self.storages[key] = torch.frombuffer(content, dtype=numbers) if content else torch.empty(0, dtype=numbers)
        return self.storages[key]


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """torch refuses a view that reaches beyond its storage."""
    return storage.as_strided(size, stride, offset)


def _plain(value: Any, *_: Any) -> Any:
    """A typed list, without its type."""
    return value
