"""FUR's traps: whose shape a class gets, how far it spreads, and what moves in which stage."""

import pytest
import torch

import sagekit as sk
from sagekit.data.samplers import class_aware, every_image
from sagekit.methods import Now, Seen
from sagekit.methods.fur import heads, likeness, shape

NAMES = ["plain circle", "striped star", "dotted heart", "dotted star"]
TINY = {"largest_class": 12, "imbalance_ratio": 4.0, "test_per_class": 2, "epochs": 2, "batch_size": 32}


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def now(stage=1, seed=0):
    return Now(stage, 0, 0.0, torch.Generator().manual_seed(seed))


def build(counts, **changes):
    """The method at the start of stage 2."""
    model = sk.build_model(sk.Config.preset("mini", "fur", **changes), NAMES[: len(counts)], class_counts=list(counts))
    model.start_stage(1)
    return model.double()


# --- shapes ---------------------------------------------------------------------------------------------------------------


def test_a_shape_is_the_covariances_eigenvectors_by_falling_eigenvalue():
    x = drawn(40, 6) @ drawn(6, 6, seed=1)
    rows = shape(x)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))  # rising
    torch.testing.assert_close(rows.norm(dim=1) ** 2, values.flip(0))
    for row, vector in zip(rows, vectors.T.flip(0), strict=True):
        assert abs(row @ vector).item() == pytest.approx(row.norm().item())
    torch.testing.assert_close(rows.T @ rows, torch.cov(x.T, correction=0))


@pytest.mark.parametrize(("images", "rank"), [(1, 0), (2, 1), (5, 4), (9, 6)])
def test_few_images_have_few_directions(images, rank):
    x = 1e3 + drawn(images, 6).float()
    assert shape(x).shape == (rank, 6)
    assert shape(x[:1].expand(images, 6)).shape == (0, 6)  # one image many times is one image


def test_likeness_is_that_of_directions_alone():
    one, other = drawn(30, 5) @ drawn(5, 5, seed=1), drawn(30, 5, seed=2) @ drawn(5, 5, seed=3)
    vectors = [torch.linalg.eigh(torch.cov(x.T)).eigenvectors.T.flip(0) for x in (one, other)]
    literal = sum(abs(sum(a * b for a, b in zip(xi, other_xi, strict=True))) for xi, other_xi in zip(*vectors, strict=True))
    a, b = shape(one), shape(other)
    for left, right in ((a, b), (7 * a, b), (a, -b)):
        assert likeness(left, right[None]).item() == pytest.approx(literal.item())
    assert likeness(a, a[None]).item() == pytest.approx(5)
    assert likeness(a[:2], a[None]).item() == pytest.approx(2)  # over those that both have
    padded = torch.cat([a[:2], torch.zeros(3, 5, dtype=a.dtype)])
    assert likeness(a, padded[None]).item() == pytest.approx(2)


@pytest.mark.parametrize(("counts", "expected"), [
    ([500, 101, 100, 5], [0, 1]),  # more than 100
    ([5, 100, 101, 500], [3, 2]),  # the largest first
    ([90, 50, 20], [0, 1]),  # none has more: the larger half
    ([900, 500, 200, 101], [0, 1]),  # all have more: likewise
    ([7, 7, 7, 7], [0, 1]),
])
def test_head_classes(counts, expected):
    assert heads(torch.tensor(counts), 100).tolist() == expected


# --- the look -------------------------------------------------------------------------------------------------------------


def plane(first, second, images, seed):
    """Features (images, 64) that spread most along axis ``first``, then along ``second``, around a centre of their own."""
    x = torch.zeros(images, 64, dtype=torch.float64)
    x[:, first], x[:, second] = 3 * drawn(images, seed=seed), drawn(images, seed=seed + 1)
    return (x + 5 * drawn(64, seed=seed + 2)).float()


def looked():
    """Four classes: two heads, a tail class alike to the second of them, and one with a single image."""
    sizes = [200, 150, 20, 1]
    model = build(sizes)
    labels = torch.cat([torch.full((n,), j) for j, n in enumerate(sizes)])
    features = torch.cat([plane(0, 1, 200, 0), plane(2, 3, 150, 10), plane(2, 3, 20, 20), plane(0, 1, 1, 30)])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    model.look({"train": Seen(features[order], labels[order])}, now())
    return model, features


def test_a_tail_class_gets_the_head_class_whose_directions_are_most_alike():
    model, features = looked()
    assert model.partner.tolist() == [-1, -1, 1, 0]  # nothing is alike to a single image: the largest head class
    for place, rows in ((0, features[:200]), (1, features[200:350])):
        found = model.shapes[place]
        torch.testing.assert_close(found.T @ found, torch.cov(rows.double().T, correction=0))
        assert found[2:].abs().max() == 0  # the rank is 2


def test_features_spread_as_the_head_class_does_and_heads_stay():
    """sqrt(lambda) and not lambda: the covariance of f' is the head class's, 9 and 1 along its axes and not 81 and 1."""
    model, _ = looked()
    f = drawn(64).expand(4000, 64)
    moved = model.spread(f, torch.full((4000,), 2), torch.Generator().manual_seed(0)) - f
    covariance, expected = torch.cov(moved.T), model.shapes[1].T @ model.shapes[1]
    torch.testing.assert_close(covariance, expected, atol=0.5, rtol=0.1)
    assert expected[2, 2] > 5
    assert moved.mean(0).abs().max() < 0.15
    labels = torch.tensor([0, 2, 1, 3])
    moved = model.spread(f[:4], labels, torch.Generator().manual_seed(0)) - f[:4]
    assert (moved.abs().amax(1) > 0).tolist() == [False, True, False, True]


def test_its_look_agrees_with_a_literal_one():
    """Every class of random features by ``eigh``, the likeness by loops."""
    sizes = [300, 150, 120, 90, 12]
    model = sk.build_model(sk.Config.preset("mini", "fur"), [*NAMES, "plain heart"], class_counts=sizes)
    model.start_stage(1)
    labels = torch.cat([torch.full((n,), j) for j, n in enumerate(sizes)])
    features = torch.cat([drawn(n, 64, seed=j) @ drawn(64, 64, seed=10 + j) for j, n in enumerate(sizes)]).float()
    model.look({"train": Seen(features, labels)}, now())
    vectors = {}
    for j, n in enumerate(sizes):
        x = features[labels == j].double()
        vectors[j] = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)) / n).eigenvectors.T.flip(0)[: n - 1]
    for j in (3, 4):
        alike = [sum(abs(float(a @ b)) for a, b in zip(vectors[j], vectors[h], strict=False)) for h in (0, 1, 2)]
        assert model.partner[j] == alike.index(max(alike))
    assert model.partner[:3].tolist() == [-1, -1, -1]


# --- stages ---------------------------------------------------------------------------------------------------------------


def test_three_stages():
    first, second, third = sk.Config.preset("cifar100-lt-100", "fur").stages
    assert first == sk.Config.preset("cifar100-lt-100", "crt", epochs=100).stages[0]
    assert [stage.epochs for stage in (first, second, third)] == [100, 50, 50]
    assert [stage.trains for stage in (second, third)] == ["head.", "net."]
    assert [stage.samplers for stage in (first, second, third)] == [(every_image,), (class_aware,), (class_aware,)]
    assert second.norms == "eval"
    assert second.looks == ("train",)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run, and the weights after each of its stages."""
    config = sk.Config.preset("mini", "fur", **TINY, classifier_epochs=1, extractor_epochs=1)
    data, folder, kept, method = sk.load_data(config.data), tmp_path_factory.mktemp("fur"), [], type(build([5, 3]))
    with pytest.MonkeyPatch.context() as patch:
        real = method.start_stage

        def start_stage(model, stage):
            kept.append({name: t.clone() for name, t in model.trained().items()})
            real(model, stage)

        patch.setattr(method, "start_stage", start_stage)
        done = sk.train(config, folder / "run", data=data, show=False)
    return config, data, done, kept


@pytest.mark.slow
def test_stage_2_moves_the_classifier_alone_and_stage_3_the_network_alone(run):
    _, _, done, kept = run
    _, after_1, after_2 = kept

    def moved(before, after):
        return {name.partition(".")[0] for name in before if name in after and not torch.equal(before[name], after[name])}

    assert moved(after_1, after_2) == {"head"}  # not even BatchNorm's statistics
    assert moved(after_2, done.weights()) == {"net"}


@pytest.mark.slow
def test_shapes_live_through_stage_2_alone(run):
    config, data, done, kept = run
    assert [{"shapes", "partner"} <= weights.keys() for weights in kept] == [False, False, True]
    shapes = kept[2]["shapes"]
    assert shapes.shape == (24, 64, 64)  # half of 48 classes: none has more than 100 images
    assert (shapes.diagonal(dim1=1, dim2=2) != 1).all()  # what the look found
    assert not {"shapes", "partner"} & done.weights().keys()
    model = sk.load_model(done, data.class_names)  # which knows no counts
    assert model.shapes is None
    assert config.settings.head_images == 100


def test_shapes_are_the_same_bits_again():
    a, b = looked()[0], looked()[0]
    assert torch.equal(a.shapes, b.shapes)
    assert torch.equal(a.partner, b.partner)
