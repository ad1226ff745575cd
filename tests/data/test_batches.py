import pytest
import torch
from conftest import SMALL, small, write_images

from sagekit import Config, UserError
from sagekit.data.batches import evaluation_batches, single_views, steps_per_epoch, train_batches
from sagekit.data.datasets import Split

CPU = torch.device("cpu")


def test_an_epoch_depends_on_seed_and_epoch_alone(data):
    first, again, later = ([x for x, _ in train_batches(data.train, small(), 48, epoch, CPU)] for epoch in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], later[0])


def test_every_step_is_full(data):
    batches = list(train_batches(data.train, small(), 48, 0, CPU))
    assert len(batches) == steps_per_epoch(data.train, small()) == len(data.train) // 64
    assert all(x.shape == (64, 3, 48, 48) and x.min() >= 0 and x.max() <= 1 for x, _ in batches)


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {}])
def test_processes_share_the_batch_of_one_process(data, changes):
    config = small(**changes)
    whole = [torch.cat([x, y.view(-1, 1, 1, 1).expand(-1, 1, 48, 48)], 1)
             for x, y in train_batches(data.train, config, 48, 0, CPU)]
    shares = [[torch.cat([x, y.view(-1, 1, 1, 1).expand(-1, 1, 48, 48)], 1)
               for x, y in train_batches(data.train, config, 48, 0, CPU, rank, 2)] for rank in (0, 1)]
    for one, a, b in zip(whole, *shares, strict=True):
        assert torch.equal(one, torch.cat([a, b]))


def test_evaluation_covers_every_image_once(data):
    seen = torch.cat([i for rank in range(3) for _, i in evaluation_batches(data.test, small(), 48, CPU, False, rank, 3)])
    assert seen.sort().values.tolist() == list(range(len(data.test)))


def test_five_crops_come_as_five(data):
    crops, index = next(evaluation_batches(data.test, small(), 48, CPU, True))
    assert len(crops) == 5
    assert len(crops[0]) == len(index)


@pytest.fixture
def photos(tmp_path):
    return Split(torch.arange(6) % 2, paths=write_images(tmp_path, 6))


def test_photos_do_not_depend_on_the_number_of_workers(photos):
    one, two = ([x for x, _ in train_batches(photos, small(batch_size=2, workers=w), 48, 0, CPU)] for w in (0, 2))
    assert len(one) == 3
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_spawned_workers_read_photos_too(photos):
    """As on macOS, where a worker gets nothing that cannot be pickled."""
    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        train, _ = next(iter(train_batches(photos, small(batch_size=6, workers=1), 48, 0, CPU)))
        (view,), _ = next(iter(evaluation_batches(photos, small(workers=1), 48, CPU, False)))
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
    assert torch.equal(train, next(iter(train_batches(photos, small(batch_size=6, workers=0), 48, 0, CPU)))[0])
    assert torch.equal(view, next(iter(evaluation_batches(photos, small(workers=0), 48, CPU, False)))[0][0])


def test_photos_are_shown_in_five_crops(photos):
    crops, index = next(evaluation_batches(photos, small(workers=0), 48, CPU, True))
    assert [tuple(c.shape) for c in crops] == [(6, 3, 48, 48)] * 5
    assert index.tolist() == list(range(6))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_photo_is_one_line(photos, workers):
    photos.paths[3].write_bytes(photos.paths[3].read_bytes()[:200])
    with pytest.raises(UserError, match=r"^[^\n]*3\.jpg is damaged or not an image[^\n]*$"):
        list(train_batches(photos, small(batch_size=2, workers=workers), 48, 0, CPU))


def test_proco_gets_two_views_of_every_image(data):
    config = Config.preset("mini", "scratch", **SMALL | {"loss": "proco"})
    images, labels = next(iter(train_batches(data.train, config, 24, 0, CPU)))
    assert images.shape == (128, 3, 24, 24)
    assert torch.equal(labels[:64], labels[64:])
    assert not torch.equal(images[:64], images[64:])


def test_single_views_show_what_the_model_sees(data, backbone):
    index = torch.tensor([3, 1])
    pixels, masks = single_views(data.test.take(index), small(), backbone.image_size)
    assert torch.equal((255 * pixels).round().byte(), data.test.images[index])  # the world's images need no resizing
    assert torch.equal(masks, data.test.masks[index])
    smaller, seen = single_views(data.test.take(index), small(test_resize=24), 24)
    assert smaller.shape == (2, 3, 24, 24)
    assert seen.float().mean() == pytest.approx(masks.float().mean().item(), abs=0.03)


def test_files_are_taken_by_place(tmp_path):
    paths = write_images(tmp_path, 3)
    split = Split(torch.tensor([0, 1, 2]), paths=paths).take(torch.tensor([2, 0]))
    assert (split.labels.tolist(), split.paths, split.masks) == ([2, 0], [paths[2], paths[0]], None)


def test_the_first_images_of_each_class():
    split = Split(torch.tensor([1, 0, 1, 1, 2]), torch.arange(5).view(5, 1, 1, 1))
    first = split.first_of_each(2)
    assert first.labels.tolist() == [0, 1, 1, 2]
    assert first.images.flatten().tolist() == [1, 0, 2, 4]
