import numpy as np
import pytest
import torch
from conftest import write_images

from sagekit import DataSet, UserError
from sagekit.data.splits import Split


def test_a_digest_is_of_images_labels_and_order(tmp_path):
    paths = write_images(tmp_path, 3)
    split = Split(torch.tensor([0, 1, 1]), paths=paths)
    same = Split(torch.tensor([0, 1, 1]), paths=list(paths))
    assert split.digest() == same.digest() == split.digest(workers=1)
    others = [Split(torch.tensor([0, 1, 0]), paths=paths), split.take(torch.tensor([0, 2, 1])),
              split.take(torch.tensor([0, 1])), Split(split.labels, torch.zeros(3, 3, 8, 8, dtype=torch.uint8))]
    assert len({split.digest(), *(other.digest() for other in others)}) == 5


def test_a_file_that_changes_is_read_again(tmp_path):
    paths = write_images(tmp_path, 2)
    split = Split(torch.tensor([0, 1]), paths=paths)
    before = split.digest()
    paths[0].write_bytes(paths[1].read_bytes())
    assert split.digest() != before
    paths[0].unlink()
    with pytest.raises(UserError, match=r"0\.jpg cannot be read"):
        split.digest()


def test_images_are_called_by_their_files(tmp_path):
    paths = write_images(tmp_path / "a", 2)
    split = Split(torch.tensor([0, 1]), paths=paths)
    assert split.names(tmp_path) == ["a/0.jpg", "a/1.jpg"]
    assert split.names(tmp_path / "b") == [str(path) for path in paths]
    assert Split(split.labels, torch.zeros(2, 3, 8, 8)).names(tmp_path) == ["0", "1"]


def test_names_that_repeat_show_their_keys():
    split = Split(torch.tensor([0, 1, 2]))
    data = DataSet("x", split, split, ["crane", "crane", "dog"], np.ones(3, int), {}, keys=["bird", "machine", "dog"])
    assert data.shown_names == ["crane (bird)", "crane (machine)", "dog"]
