import pytest
import torch
from conftest import write_images

from sagekit import UserError, load_data
from sagekit.data import views
from sagekit.data.batches import Feed, evaluation_batches, single_views, step_generator, steps_per_epoch, train_batches
from sagekit.data.samplers import class_balanced, every_image, reverse
from sagekit.data.splits import Split
from sagekit.settings import DataSettings, ViewSettings

CPU = torch.device("cpu")
FEED = Feed(64)
TWO = Feed(64, (every_image, reverse), (views.crop, views.strong))


@pytest.fixture(scope="module")
def data():
    return load_data(DataSettings(largest_class=30, imbalance_ratio=10.0, test_per_class=4))


@pytest.fixture
def photos(tmp_path):
    return Split(torch.arange(6) % 2, paths=write_images(tmp_path, 6))


def parts(split, feed=FEED, epoch=0, size=48, seed=0, **dealt):
    return list(train_batches(split, feed, ViewSettings(), size, seed, epoch, CPU, **dealt))


def same(one, other):
    """Whether two parts hold the same batches."""
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True)
               for a, b in zip((*x.views, x.labels, x.places), (*y.views, y.labels, y.places), strict=True))


@pytest.mark.slow
def test_an_epoch_depends_on_seed_and_epoch_alone(data):
    first, again, later, other = (parts(data.train, TWO, epoch, seed=seed) for epoch, seed in ((0, 0), (0, 0), (1, 0), (0, 1)))
    assert all(map(same, first, again))
    assert not same(first[0], later[0])
    assert not same(first[0], other[0])


@pytest.mark.parametrize(("view", "sums"), [(views.crop, (224845.2, 233919.3)), (views.shift, (191356.8, 204818.6))])
def test_the_pixels_are_those_of_earlier_versions(data, view, sums):
    """Measured before there were several samplers and views: seed 0, epoch 0, steps 0 and 3."""
    steps = parts(data.train, Feed(64, views=(view,)))
    assert steps[0][0].labels[:8].tolist() == [3, 9, 30, 3, 47, 10, 9, 28]
    for step, expected in zip((0, 3), sums, strict=True):
        assert steps[step][0].views[0].double().sum().item() == pytest.approx(expected, abs=1)


def test_batches_say_which_images_they_show(data):
    for (batch,) in parts(data.train, Feed(64, views=(views.View("whole", "crop", (1.0, 1.0)),))):
        assert torch.equal(batch.labels, data.train.labels[batch.places])
        shown, images = batch.views[0], data.train.images[batch.places] / 255
        upright = torch.minimum((shown - images).abs().mean((1, 2, 3)), (shown - images.flip(-1)).abs().mean((1, 2, 3)))
        assert upright.median() < 1e-5  # a box of all the area is mostly the whole image


def test_the_last_batch_is_kept_unless_the_feed_drops_it(data):
    n = len(data.train)
    kept, dropped = (parts(data.train, Feed(64, drop_last=drop)) for drop in (False, True))
    assert (len(kept), len(dropped)) == (n // 64 + 1, n // 64)
    assert sum(len(batch.labels) for (batch,) in kept) == n
    assert torch.cat([batch.places for (batch,) in kept]).unique().numel() == n
    assert all(len(batch.labels) == 64 for (batch,) in dropped)
    assert all(map(same, dropped, kept[:-1]))


@pytest.mark.parametrize(("images", "feed", "dealt", "steps"), [
    (130, Feed(64), 1, 3), (130, Feed(64), 2, 3), (130, Feed(64), 4, 2), (130, Feed(64, drop_last=True), 1, 2),
    (128, Feed(64), 1, 2), (20, Feed(64), 1, 1), (20, Feed(64, drop_last=True), 1, 0)])
def test_steps_of_an_epoch(images, feed, dealt, steps):
    assert steps_per_epoch(images, feed, dealt) == steps


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_share_the_batch_of_one_process(data, accumulate):
    whole = parts(data.train, TWO)
    shares = [parts(data.train, TWO, rank=rank, processes=2, accumulate=accumulate) for rank in (0, 1)]
    assert len(shares[0]) == len(whole) * accumulate
    for step, one in enumerate(whole):
        dealt = [share[step * accumulate + part] for part in range(accumulate) for share in shares]
        for k, batch in enumerate(one):
            kept = sum(len(part[k].labels) for part in dealt)
            assert kept == len(batch.labels) // (2 * accumulate) * 2 * accumulate  # a last batch loses what cannot be dealt
            assert torch.equal(torch.cat([part[k].places for part in dealt]), batch.places[:kept])
            for v, shown in enumerate(batch.views):
                assert torch.equal(torch.cat([part[k].views[v] for part in dealt]), shown[:kept])


def test_a_last_batch_too_small_to_deal_is_no_step(data):
    split = data.train.take(torch.arange(66))
    assert [len(batch.labels) for (batch,) in parts(split, processes=4)] == [16]


def test_a_step_has_a_batch_of_each_sampler_in_each_view(data):
    step = parts(data.train, TWO)[0]
    assert [[tuple(v.shape) for v in batch.views] for batch in step] == [[(64, 3, 48, 48)] * 2] * 2
    assert same(step[:1], parts(data.train, Feed(64, views=TWO.views))[0])  # the first sampler's numbers ask for no second
    assert torch.equal(step[0].views[0], parts(data.train)[0][0].views[0])
    twins = parts(data.train, Feed(64, (every_image, every_image)))[0]
    assert not torch.equal(twins[0].places, twins[1].places)


def test_a_method_s_own_random_numbers_depend_on_the_step():
    first, again, later = (torch.rand(3, generator=step_generator(0, 2, step)) for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_evaluation_covers_every_image_once(data):
    how = {"interpolation": "bilinear"}
    seen = torch.cat([i for rank in range(3)
                      for _, i in evaluation_batches(data.test, ViewSettings(), 48, CPU, False, rank, 3, **how)])
    assert seen.sort().values.tolist() == list(range(len(data.test)))


def test_five_crops_come_as_five(data):
    crops, index = next(evaluation_batches(data.test, ViewSettings(), 48, CPU, True, interpolation="bilinear"))
    assert len(crops) == 5
    assert len(crops[0]) == len(index)


def test_photos_do_not_depend_on_the_number_of_workers(photos):
    feed = Feed(4, (every_image, class_balanced), (views.crop, views.sim_blur))
    one, two = (parts(photos, feed, workers=workers) for workers in (0, 2))
    assert [len(batch.labels) for step in one for batch in step] == [4, 4, 2, 2]
    assert all(map(same, one, two))


def test_photos_come_from_each_sampler_in_each_view(photos):
    """A loss that wants two views once got one from files, without a word."""
    for size in (1, 2):
        first, second = parts(photos, Feed(6, (every_image,) * size, (views.crop, views.sim)))[0][0].views
        assert first.shape == second.shape == (6, 3, 48, 48)
        assert not torch.equal(first, second)
    step = parts(photos, Feed(6, (every_image, every_image), (views.crop,)))[0]
    assert same(step[:1], parts(photos, Feed(6))[0])
    for batch in step:
        assert torch.equal(batch.labels, photos.labels[batch.places])
    images = [batch.views[0][batch.places.argsort()] for batch in step]
    assert not any(torch.equal(a, b) for a, b in zip(*images, strict=True))  # the same file, another view


def test_processes_share_photos(photos):
    (whole,) = parts(photos, Feed(6))
    dealt = [parts(photos, Feed(6), rank=rank, processes=2)[0] for rank in (0, 1)]
    assert torch.equal(torch.cat([part[0].views[0] for part in dealt]), whole[0].views[0])


@pytest.mark.slow
def test_spawned_workers_read_photos_too(photos):
    """As on macOS, where a worker gets nothing that cannot be pickled."""
    feed = Feed(6, (every_image, reverse), (views.crop, views.strong))
    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        (train,) = parts(photos, feed, workers=1)
        (view,), _ = next(iter(evaluation_batches(photos, ViewSettings(), 48, CPU, False, workers=1, interpolation="bilinear")))
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
    assert same(train, parts(photos, feed)[0])
    (again,), _ = next(evaluation_batches(photos, ViewSettings(), 48, CPU, False, interpolation="bilinear"))
    assert torch.equal(view, again)


def test_photos_are_shown_in_five_crops(photos):
    crops, index = next(evaluation_batches(photos, ViewSettings(), 48, CPU, True, interpolation="bilinear"))
    assert [tuple(c.shape) for c in crops] == [(6, 3, 48, 48)] * 5
    assert index.tolist() == list(range(6))


@pytest.mark.parametrize("files", [False, True])
def test_random_crops_are_the_same_ones_whoever_measures(files, data, photos):
    """Process, worker and batch do not matter; the image's place does."""
    split = photos if files else data.test.take(torch.arange(6))
    settings = ViewSettings(ensemble="random_crops", random_crops=3)

    def crops(split, *dealt, workers=0):
        found = evaluation_batches(split, settings, 48, CPU, True, *dealt, workers=workers, interpolation="bilinear")
        return {place: one for shown, index in found for place, one in zip(index.tolist(), torch.stack(shown, 1), strict=True)}

    whole = crops(split)
    assert [tuple(shown.shape) for shown in whole.values()] == [(3, 3, 48, 48)] * 6
    again = crops(split, 0, 2, workers=2 * files) | crops(split, 1, 2)
    assert all(torch.equal(again[place], whole[place]) for place in range(6))
    assert not torch.equal(whole[0][0], whole[0][1])
    same = split.take(torch.zeros(2, dtype=torch.long))  # one image in two places
    assert not torch.equal(*crops(same).values())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_photo_is_one_line(photos, workers):
    photos.paths[3].write_bytes(photos.paths[3].read_bytes()[:200])
    with pytest.raises(UserError, match=r"^[^\n]*3\.jpg is damaged or not an image[^\n]*$"):
        parts(photos, Feed(2), workers=workers)


def test_single_views_show_what_the_model_sees(data):
    few = data.test.take(torch.tensor([3, 1]))
    pixels, masks = single_views(few, ViewSettings(test_resize=48), 48, "bilinear")
    assert torch.equal((255 * pixels).round().byte(), few.images)  # the world's images need no resizing
    assert torch.equal(masks, few.masks)
    smaller, seen = single_views(few, ViewSettings(test_resize=24), 24, "bilinear")
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


@pytest.mark.parametrize("ensembling", [False, True])
def test_test_views_are_resized_as_the_model_was_trained(photos, data, ensembling):
    """Files and images in memory, in every view."""
    few = Split(data.test.labels[:4], data.test.images[:4])
    settings = ViewSettings(test_resize=56)
    for split in (photos, few):
        cubic, linear = (next(evaluation_batches(split, settings, 48, CPU, ensembling, interpolation=kind))[0]
                         for kind in ("bicubic", "bilinear"))
        assert not any(torch.allclose(a, b, atol=0.01) for a, b in zip(linear, cubic, strict=True))
