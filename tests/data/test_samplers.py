import pytest
import torch

from sagekit.data import samplers

COUNTS = torch.tensor([600, 200, 60, 20, 5])
LABELS = torch.repeat_interleave(torch.arange(5), COUNTS)[torch.randperm(885, generator=torch.Generator().manual_seed(1))]
ALL = list(samplers.SAMPLERS.values())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def shares(sampler, epochs=20):
    places = torch.cat([sampler(LABELS, seeded(seed)) for seed in range(epochs)])
    return torch.bincount(LABELS[places], minlength=5) / len(places)


@pytest.mark.parametrize("sampler", ALL)
def test_an_epoch_is_n_places_decided_by_the_generator(sampler):
    first, again, other = (sampler(LABELS, seeded(seed)) for seed in (0, 0, 1))
    assert (first.shape, first.dtype) == ((885,), torch.int64)
    assert 0 <= first.min() <= first.max() < 885
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("sampler", "expected"), [
    (samplers.every_image, COUNTS / 885), (samplers.class_aware, torch.full((5,), 0.2)),
    (samplers.class_balanced, torch.full((5,), 0.2)), (samplers.reverse, (1 / COUNTS) / (1 / COUNTS).sum()),
    (samplers.square_root, COUNTS.sqrt() / COUNTS.sqrt().sum()), (samplers.progressive, COUNTS / 885)])
def test_classes_come_as_often_as_the_sampler_says(sampler, expected):
    torch.testing.assert_close(shares(sampler), expected, atol=0.01, rtol=0)


def test_every_image_is_a_permutation():
    assert torch.equal(samplers.every_image(LABELS, seeded()), torch.randperm(885, generator=seeded()))


@pytest.mark.parametrize("sampler", [samplers.class_balanced, samplers.reverse])
def test_images_of_a_class_are_equally_likely(sampler):
    places = torch.cat([sampler(LABELS, seeded(seed)) for seed in range(40)])
    seen = torch.bincount(places, minlength=885)[LABELS == 4]
    assert (seen / seen.sum() - 0.2).abs().max() < 0.02


def test_class_aware_shows_four_of_a_class_in_a_row():
    labels = LABELS[samplers.class_aware(LABELS, seeded())]
    runs = labels[:884].view(-1, 4)
    assert (runs == runs[:, :1]).all()
    rounds = runs[:220, 0].view(-1, 5)
    assert torch.equal(rounds.sort(1).values, torch.arange(5).expand(44, 5))  # every class once a round
    assert not torch.equal(rounds[0], rounds[1])


def test_class_aware_uses_a_class_up_before_it_repeats_an_image():
    places = samplers.class_aware(LABELS, seeded())
    tail = places[LABELS[places] == 4]
    cycles = tail[: len(tail) // 5 * 5].view(-1, 5)
    assert (cycles.sort(1).values == torch.nonzero(LABELS == 4).T).all()
    head = places[LABELS[places] == 0]
    assert len(head.unique()) == len(head)


@pytest.mark.parametrize("sampler", ALL)
def test_a_set_with_fewer_turns_than_classes(sampler):
    labels = torch.tensor([3, 0, 2, 1, 1])
    assert sampler(labels, seeded()).shape == (5,)


def literal(n, weights):
    """Class probabilities when each image of class j weighs ``weights[j]``."""
    return torch.tensor([v * w for v, w in zip(n.tolist(), weights, strict=True)]) / sum(
        v * w for v, w in zip(n.tolist(), weights, strict=True))


def test_effective_numbers_weigh_images():
    weights = [(1 - 0.9999) / (1 - 0.9999**n) for n in COUNTS.tolist()]
    torch.testing.assert_close(shares(samplers.effective_number), literal(COUNTS, weights), atol=0.01, rtol=0)


def test_cben_shows_rare_classes_a_little_less_against_the_largest():
    n = torch.tensor([20_000, 2_000, 20])
    rarity = [0.0, torch.log(torch.tensor(10.0)).item() / torch.log(torch.tensor(1000.0)).item(), 1.0]
    own = literal(n, [(1 - b) / (1 - b**v) for b, v in zip([0.9999 + 1e-5 * d for d in rarity], n.tolist(), strict=True)])
    plain = literal(n, [(1 - 0.9999) / (1 - 0.9999**v) for v in n.tolist()])
    assert own[2] / own[0] < plain[2] / plain[0]
    labels = torch.repeat_interleave(torch.arange(3), n)
    for sampler, expected in ((samplers.cben, own), (samplers.effective_number, plain)):
        places = torch.cat([sampler(labels, seeded(seed)) for seed in range(20)])
        found = torch.bincount(labels[places], minlength=3) / len(places)
        torch.testing.assert_close(found, expected.float(), atol=0.004, rtol=0)


@pytest.mark.parametrize(("done", "expected"), [
    (0.0, COUNTS / 885), (0.5, COUNTS / 885 / 2 + 0.1), (1.0, torch.full((5,), 0.2))])
def test_progressive_moves_from_the_images_to_the_classes(done, expected):
    places = torch.cat([samplers.progressive(LABELS, seeded(seed), done) for seed in range(20)])
    torch.testing.assert_close(torch.bincount(LABELS[places], minlength=5) / len(places), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("sampler", ALL)
def test_classes_without_images_are_passed_over(sampler):
    labels = torch.tensor([0] * 9 + [3] * 2 + [5])
    places = sampler(labels, seeded())
    assert len(places) == 12
    assert set(labels[places].tolist()) <= {0, 3, 5}


def test_every_sampler_has_its_name():
    from typing import get_args

    from sagekit.methods._stages import SamplerName

    assert set(get_args(SamplerName)) == set(samplers.SAMPLERS)
