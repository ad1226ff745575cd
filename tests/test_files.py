import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from sagekit import UserError
from sagekit.files import NESTED, load_tensors, save_tensors, sha256, write_atomic, write_text


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "a.txt", "old")

    def broken(path):
        path.write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_atomic(tmp_path / "a.txt", broken)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_one_line(tmp_path):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="the disk is full: could not write"):
        write_atomic(tmp_path / "a.txt", full)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_that_torch_hides_is_one_line(tmp_path, monkeypatch):
    def full(path):
        raise RuntimeError("[enforce fail at inline_container.cc:672]")

    with pytest.raises(RuntimeError):
        write_atomic(tmp_path / "a.pt", full)
    usage = type(shutil.disk_usage(tmp_path))(10, 10, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match="the disk is full: could not write"):
        write_atomic(tmp_path / "a.pt", full)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_really_full_device_is_one_line(tmp_path):
    with pytest.raises(UserError, match="the disk is full"):
        write_atomic(tmp_path / "a", lambda path: Path("/dev/full").write_text("x" * 100000))


def test_a_place_that_is_no_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*\. Name another place"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_tensors_survive(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor(1.5)}
    save_tensors(tmp_path / "t.safetensors", tensors, {"made": "here"})
    back = load_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(back[k], v) for k, v in tensors.items())


def test_code_in_a_file_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "done"),))

    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="holds more than tensors"):
        load_tensors(tmp_path / "evil.pt")
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("key", NESTED)
def test_a_checkpoint_s_state_dict_is_found(tmp_path, key):
    torch.save({key: {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "a.pt")
    assert load_tensors(tmp_path / "a.pt")["a"].tolist() == [1, 1]


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
