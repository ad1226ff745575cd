import torch

from sagekit import Config, load_data
from sagekit.data import world
from sagekit.data.prompts import TEMPLATES, fill

LABELS = torch.arange(48)


def scenes(seed: int = 0, domain: world.Domain = world.PRETRAIN, labels: torch.Tensor = LABELS):
    g = world.generator(seed)
    return world.sample(labels, domain, g), g


def test_the_same_seed_gives_the_same_world():
    first, second = (world.render(*[s, world.PRETRAIN, g])[0] for s, g in (scenes(3), scenes(3)))
    other = world.render(scenes(4)[0], world.PRETRAIN, world.generator(9))[0]
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_render_gives_pixels_and_masks():
    s, g = scenes(labels=LABELS.repeat(3))  # more than one chunk
    images, masks = world.render(s, world.PRETRAIN, g)
    assert (images.shape, images.dtype) == ((144, 3, 48, 48), torch.uint8)
    assert (masks.shape, masks.dtype) == ((144, 48, 48), torch.bool)
    share = masks.float().mean((1, 2))
    assert share.min() > 0.02
    assert share.max() < 0.75


def test_the_mask_is_the_object():
    """Without light, blur, noise and clutter the mask's pixels are the object's colour and the others are not."""
    clean = world.Domain(light=(1, 1), blur=(0, 0), noise=0, grey=0, distractors=0, clutter=0, angle=0)
    s, g = scenes(domain=clean, labels=torch.zeros(32, dtype=torch.long))  # plain circles
    images, masks = world.render(s, clean, g)
    for image, mask in zip(images.float(), masks, strict=True):
        inside, outside = image[:, mask], image[:, ~mask]
        colour = inside.median(1, keepdim=True).values
        flat = ((inside - colour).abs() < 1.5).all(0).float().mean()
        assert flat > 0.8  # one colour, but for the pixels that the edge covers in part
        assert (outside - colour).abs().amax(0).median() > 10


def test_circle_mask_has_a_circle_s_area():
    s, g = scenes(labels=torch.zeros(64, dtype=torch.long))
    _, masks = world.render(s, world.PRETRAIN, g)
    expected = torch.pi * (0.85 * s.radius * 24) ** 2
    inside = (s.x.abs() + s.radius < 1) & (s.y.abs() + s.radius < 1)
    torch.testing.assert_close(masks.sum((1, 2)).float()[inside], expected[inside], rtol=0.05, atol=4)


def test_every_shape_and_texture_differs():
    plain = world.Domain(angle=0, offset=0, radius=(0.8, 0.8), light=(1, 1), blur=(0, 0), noise=0, grey=0)
    s, g = scenes(domain=plain)
    s.mirror[:] = False
    _, masks = world.render(s, plain, g)
    shapes = masks[:12].flatten(1).float()
    overlap = (shapes @ shapes.T) / (shapes.sum(1)[:, None] + shapes.sum(1) - shapes @ shapes.T)
    assert (overlap - torch.eye(12)).max() < 0.9
    assert torch.equal(masks[:12], masks[12:24])  # a texture does not change the outline


def test_captions_never_lie():
    s, g = scenes(labels=LABELS.repeat(20))
    for i, text in enumerate(world.captions(s, g)):
        words = text.replace(".", " ").split()
        assert not set(words) & (set(world.SHAPES) - {world.SHAPES[s.shape[i]]})
        assert not set(words) & (set(world.TEXTURES) - {world.TEXTURES[s.texture[i]]})
        said = set(words) & set(world.COLOURS)
        assert said <= ({world.COLOURS[s.colour[i]]} if not s.grey[i] else set())
        if "dark" in words:
            assert s.light[i] < 0.65


def test_the_vocabulary_covers_prompts_and_captions():
    known = set(world.vocabulary())
    s, g = scenes(labels=LABELS.repeat(20))
    texts = world.captions(s, g) + [text for name in world.CLASS_NAMES for text in fill(TEMPLATES, name)]
    assert {w for text in texts for w in text.replace(".", " ").split()} <= known


def test_class_index_is_texture_times_shapes_plus_shape():
    s, _ = scenes()
    assert torch.equal(s.label, LABELS)
    assert world.CLASS_NAMES[13] == "striped square"


def test_rare_classes_show_few_colours():
    counts = torch.tensor([500, 100, 20, 5])
    assert world.colours_shown(counts).tolist() == [8, 8, 4, 2]
    labels = torch.arange(4).repeat_interleave(counts)
    colours = world.training_colours(labels, counts, world.generator(0))
    assert [colours[labels == c].unique().numel() for c in range(2)] == [8, 8]
    assert all(colours[labels == c].unique().numel() <= k for c, k in ((2, 4), (3, 2)))


def test_without_mismatch_only_colours_of_training_images_differ():
    """Every class shows all colours then, and the test and validation images are the same."""
    off, on = (load_data(Config.preset("mini", mismatch=mismatch, largest_class=30, imbalance_ratio=10.0, test_per_class=2,
                                       val_per_class=2).data) for mismatch in (False, True))
    assert torch.equal(off.test.images, on.test.images)
    assert torch.equal(off.val.images, on.val.images)
    assert torch.equal(off.train.masks, on.train.masks)
    assert not torch.equal(off.train.images, on.train.images)
    labels, counts = torch.zeros(4000, dtype=torch.long), torch.tensor([5])
    shown = world.training_colours(labels, counts, world.generator(0), mismatch=False).bincount(minlength=8)
    assert shown.min() > 400  # of 500
    assert (world.training_colours(labels, counts, world.generator(0)).bincount(minlength=8) > 0).sum() == 2


def test_the_downstream_shift_is_the_same_for_every_class():
    """A photographic negative turns the mean brightness round, whatever the class."""
    s, _ = scenes(labels=LABELS.repeat(4))
    plain = world.Domain(noise=0)
    negative = world.Domain(noise=0, invert=1.0)
    a, b = (world.render(s, d, world.generator(1))[0].float() for d in (plain, negative))
    torch.testing.assert_close(a + b, torch.full_like(a, 255), atol=1.01, rtol=0)
