"""Reading and writing files safely: a file is either whole or absent, and nothing in it is ever executed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import UserError

NESTED = ("state_dict", "model_state_dict", "model")
"""Under what key a checkpoint holds its state dict."""


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it there.

    The reader sees the old file or the new one, never half of one. A full disk is a ``UserError``, and the temporary
    file is gone.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
    temporary = Path(name)
    try:
        with explained(path):  # while the temporary file still fills the disk
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a full disk or a forbidden place raises while ``path`` is written into a ``UserError``."""
    try:
        yield
    except Exception as error:
        if _disk_full(error, path.parent):
            raise UserError(f"the disk is full: could not write {path}. Free some space; --resume continues.") from error
        if isinstance(error, (PermissionError, NotADirectoryError, FileExistsError)):
            raise UserError(f"cannot write {path}: {error.strerror}. Name another place with --out or --runs.") from error
        raise


def _disk_full(error: BaseException, folder: Path) -> bool:
    """safetensors and torch hide the operating system's error, so the room that is left is looked at too."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return folder.is_dir() and shutil.disk_usage(folder).free < 1 << 20


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def sha256(path: Path) -> str:
    """The file's SHA-256, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, lambda temporary: save_file(whole, temporary, metadata))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a weight file: safetensors, or a state dict that ``torch.load`` reads with ``weights_only=True``, by itself or as
    one of ``NESTED`` in a checkpoint.

    Raises ``UserError`` when the file is missing, damaged or holds something else.
    """
    if not path.is_file():
        raise UserError(f"no weight file at {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"{path} is damaged or not a weight file ({_first_line(error)}).") from error
    except Exception as error:  # pickle.UnpicklingError and its kin: whatever weights_only refuses
        raise UserError(f"{path} holds more than tensors, which is not loaded; save a plain state dict.") from error
    while isinstance(state, dict) and (inner := next((key for key in NESTED if isinstance(state.get(key), dict)), None)):
        state = state[inner]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is not a state dict of tensors.")
    return {str(name): value for name, value in state.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
