"""The views of an image: what the model sees in training and in the test.

Training: a ``View`` is a recipe. First the geometry, drawn for a whole batch: a random crop that is resized, or the image
shifted over black, and a horizontal flip. Then, for some recipes, the pixels of each image by itself (colours, blur, a square
cut out).

    crop        RandomResizedCrop
    shift       the four-pixel padding and random crop of CIFAR
    strong      shift, AutoAugment (CIFAR-10 policy, grey outside), Cutout
    sim         RandomResizedCrop of 8..100 %, colour jitter with p 0.8, grey with p 0.2
    sim_blur    the same of 20..100 %, and a blur of sigma 0.1..2 pixels with p 0.5
    jitter      RandomResizedCrop of 8..100 %, colour jitter without hue (Kang et al. on ImageNet-LT)
    half        RandomResizedCrop of 50..100 %, bicubic (Tip-Adapter)
    half_jitter the same with jitter's colours (BALLAD)
    bicubic     crop, bicubic (CoOp)
    minimal     a square without a flip, bicubic, of [a, 100 %] of the largest one, where a widens with the epochs (LIFT+)
    rand        jitter, then RandAugment: two operations of strength 10 of 30

Test: resize, centre crop. Resizing is bilinear or bicubic, as the model was trained (``Backbone.interpolation``); training
crops are bilinear, as LIFT's are, where a recipe does not say bicubic. Ensembling averages the logits of several crops (finding
10), as LIFT has them:

    five_crops    resize to a little more than the crop; the corners and the centre
    ten_crops     those and their mirror images
    random_crops  RandomResizedCrop and flip, as in training, drawn from the image's place in its set alone

Sets that fit in memory are cropped and flipped in one batched call where they live; ``photos`` does it file by file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..settings import ViewSettings

Interpolation = Literal["bilinear", "bicubic"]
Alteration = Literal["autoaugment", "cutout", "colour", "grey", "blur", "jitter", "randaugment"]


@dataclass(frozen=True)
class View:
    """A recipe: how the image is cut, and what is then done to its pixels, in that order.

    ``scale``: share of the area that a crop or a square keeps; none: ``ViewSettings.crop_scale``. ``epochs``: those over which
    a ``square`` narrows its choice to the whole image.
    """

    name: str
    draw: Literal["crop", "shift", "square"]
    scale: tuple[float, float] | None = None
    alter: tuple[Alteration, ...] = ()
    interpolation: Interpolation = "bilinear"
    epochs: int = 1


crop = View("crop", "crop")
shift = View("shift", "shift")
strong = View("strong", "shift", alter=("autoaugment", "cutout"))
sim = View("sim", "crop", (0.08, 1.0), ("colour", "grey"))
sim_blur = View("sim_blur", "crop", (0.2, 1.0), ("colour", "grey", "blur"))
jitter = View("jitter", "crop", (0.08, 1.0), ("jitter",))
rand = View("rand", "crop", (0.08, 1.0), ("jitter", "randaugment"))
half = View("half", "crop", (0.5, 1.0), interpolation="bicubic")
half_jitter = View("half_jitter", "crop", (0.5, 1.0), ("jitter",), "bicubic")
bicubic = View("bicubic", "crop", interpolation="bicubic")
minimal = View("minimal", "square", interpolation="bicubic")
RECIPES = {view.name: view for view in (crop, shift, strong, sim, sim_blur, jitter, rand, half, half_jitter, bicubic, minimal)}


class Draws(NamedTuple):
    """The random choices for n images: boxes float (n, 4) as of ``draw_boxes``, flips bool (n,), and the seeds int64 (n,) of
    the images' alterations, where the recipe has any."""

    boxes: Tensor
    flips: Tensor
    seeds: Tensor | None

    def take(self, part: slice) -> Draws:
        """The choices for some of the images."""
        return Draws(self.boxes[part], self.flips[part], None if self.seeds is None else self.seeds[part])


def draw_boxes(n: int, height: int, width: int, scale: tuple[float, float], g: torch.Generator) -> Tensor:
    """Crop boxes float (n, 4) as (top, left, height, width) in pixels, distributed as torchvision's RandomResizedCrop.

    Area uniform in ``scale`` times the image, log-uniform aspect ratio in 3/4..4/3; ten tries, then the
    largest box of such an aspect, centred.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * torch.rand(n, 10, generator=g))
    ratio = torch.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * torch.rand(n, 10, generator=g))
    w, h = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
    any_fits = fits.any(1)
    w = torch.where(any_fits, w, float(min(width, round(height * 4 / 3))))
    h = torch.where(any_fits, h, float(min(height, round(width * 4 / 3))))
    where = torch.rand(n, 2, generator=g)
    top = torch.where(any_fits, (where[:, 0] * (height - h + 1)).floor(), ((height - h) / 2).floor())
    left = torch.where(any_fits, (where[:, 1] * (width - w + 1)).floor(), ((width - w) / 2).floor())
    return torch.stack([top, left, h, w], 1)


def draw_squares(n: int, height: int, width: int, scale: tuple[float, float], epochs: int, done: float,
                 g: torch.Generator) -> Tensor:
    """Square boxes float (n, 4) as of ``draw_boxes``, for LIFT+'s crops when the share ``done`` of ``epochs`` E is over.

    With t = epoch / (E - 1), s = 1 - sqrt(1 - t^2) and (a, b) = ``scale``, the area's share is uniform in [a + (b - a) s, b],
    and both ends are no more than the largest square's: from strong crops to the whole square.
    """
    t = min(1.0, done * epochs / (epochs - 1)) if epochs > 1 else 1.0
    least, most = scale
    side = min(height, width)
    wide = least + (most - least) * (1 - math.sqrt(1 - t * t))
    low, high = (min(share, side**2 / (height * width)) for share in (wide, most))
    area = height * width * (low + (high - low) * torch.rand(n, generator=g))
    edge = area.sqrt().round().clamp(1, side)
    where = torch.rand(n, 2, generator=g)
    return torch.stack([(where[:, 0] * (height - edge + 1)).floor(), (where[:, 1] * (width - edge + 1)).floor(), edge, edge], 1)


def crop_and_resize(images: Tensor, boxes: Tensor, size: int, flip: Tensor,
                    interpolation: Interpolation = "bilinear") -> Tensor:
    """Cut ``boxes`` (B, 4) out of ``images`` (B, 3, H, W), resize to ``size`` and mirror the rows of bool ``flip`` (B,).

    Bilinear with the crop's edge repeated and zero outside the image; no antialiasing, so it is for enlarging (or halving,
    which averages 2 x 2 pixels). Bicubic looks up to two pixels beyond the crop's edge, and repeats the image's. Returns float
    (B, 3, size, size) in the range of ``images``.
    """
    height, width = images.shape[-2:]
    top, left, h, w = (part.view(-1, 1) for part in boxes.to(images.device).T)
    steps = (torch.arange(size, device=images.device) + 0.5) / size
    x_steps = torch.where(flip.to(images.device).view(-1, 1), 1 - steps, steps)
    y = (top + steps * h).clamp(min=top + 0.5, max=top + h - 0.5)
    x = (left + x_steps * w).clamp(min=left + 0.5, max=left + w - 0.5)
    grid = torch.stack([
        (2 * x / width - 1).unsqueeze(1).expand(-1, size, -1),
        (2 * y / height - 1).unsqueeze(2).expand(-1, -1, size),
    ], -1)
    if interpolation == "bicubic":
        found = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
        return found.clamp(0, 255 if images.dtype == torch.uint8 else 1)
    return F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)


def draw_shifts(n: int, height: int, width: int, g: torch.Generator) -> Tensor:
    """Boxes of the whole image, shifted by up to an eighth of it in whole pixels: (n, 4) as ``draw_boxes``.

    What lies outside is black: the usual four-pixel padding and random crop of CIFAR's 32 px.
    """
    top, left = ((torch.rand(n, generator=g) * (2 * (side // 8) + 1)).floor() - side // 8 for side in (height, width))
    return torch.stack([top, left, torch.full((n,), float(height)), torch.full((n,), float(width))], 1)


def draw_train_views(n: int, height: int, width: int, view: View, settings: ViewSettings, g: torch.Generator,
                     done: float = 0.0) -> Draws:
    """The random choices for ``view`` of n images of one size in pixels, when the share ``done`` of the stage's epochs is over.
    ``g`` decides everything."""
    if view.draw == "shift":
        boxes = draw_shifts(n, height, width, g)
    elif view.draw == "square":
        boxes = draw_squares(n, height, width, view.scale or settings.crop_scale, view.epochs, done, g)
    else:
        boxes = draw_boxes(n, height, width, view.scale or settings.crop_scale, g)
    flips = (torch.rand(n, generator=g) < 0.5) & torch.tensor(settings.flip and view.draw != "square")
    return Draws(boxes, flips, torch.randint(2**63 - 1, (n,), generator=g) if view.alter else None)


def train_view(images: Tensor, size: int, view: View, draws: Draws) -> Tensor:
    """``images`` uint8 (B, 3, H, W) shown by ``view`` as drawn: float (B, 3, size, size) in 0..1, where the images are."""
    pixels = crop_and_resize(images, draws.boxes, size, draws.flips, view.interpolation)
    if draws.seeds is None:
        return pixels / 255
    whole = pixels.round().byte()
    return torch.stack([alter(one, view, seed) for one, seed in zip(whole, draws.seeds.tolist(), strict=True)]) / 255


def alter(image: Tensor, view: View, seed: int) -> Tensor:
    """``view``'s alterations of an image uint8 (3, S, S), all decided by ``seed``; uint8 (3, S, S)."""
    operations = _alterations()
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the one global generator, on the CPU
        torch.default_generator.manual_seed(seed)
        for name in view.alter:
            image = operations[name](image)
    return image


@cache
def _alterations() -> dict[Alteration, Callable[[Tensor], Tensor]]:
    """Each alteration of an image uint8 (3, S, S).

    torchvision's AutoAugment has the authors' policies, but rotates either way (theirs: one) and shears without interpolation.
    Its RandAugment has one strength; the long-tailed literature's varies it by 0.5 (timm's "m10-mstd0.5").
    """
    from torchvision.transforms import v2  # slow to import

    return {
        "autoaugment": v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=[128, 128, 128]),
        "cutout": _cutout,
        "colour": v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        "grey": v2.RandomGrayscale(0.2),
        "jitter": v2.ColorJitter(0.4, 0.4, 0.4),
        "randaugment": v2.RandAugment(num_ops=2, magnitude=10),
        "blur": v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5),  # 13 pixels: three sigmas of the widest to each side
    }


def _cutout(image: Tensor) -> Tensor:
    """One black square of half the side; its centre is uniform over the image, so the border may clip it."""
    side = image.shape[-1]
    reach = side // 4
    y, x = torch.randint(side, (2,)).tolist()
    image = image.clone()
    image[:, max(0, y - reach) : y + reach, max(0, x - reach) : x + reach] = 0
    return image


def test_side(settings: ViewSettings, size: int) -> int:
    """Pixels of the shorter side, of which the centre view cuts ``size``."""
    return settings.test_resize or size * 8 // 7


def crop_margin(settings: ViewSettings, size: int) -> int:
    """Pixels by which the image is larger than its five or ten crops of ``size``."""
    return settings.ensemble_margin or size * 3 // 28


def resized_side(settings: ViewSettings, size: int, ensembling: bool) -> int:
    """What the shorter side is resized to, in pixels: never less than ``size``, or the view would be padded with black."""
    return size + crop_margin(settings, size) if ensembling else max(test_side(settings, size), size)


def centre_view(images: Tensor, size: int, settings: ViewSettings, interpolation: Interpolation = "bilinear") -> Tensor:
    """Resize the shorter side to ``test_side`` and cut the centre: float (B, 3, size, size) in 0..1."""
    from torchvision.transforms import v2

    return v2.functional.center_crop(_shown(images, resized_side(settings, size, False), interpolation), [size, size])


def five_crops(images: Tensor, size: int, settings: ViewSettings,
               interpolation: Interpolation = "bilinear") -> tuple[Tensor, ...]:
    """Corners and centre of the image resized to ``size + crop_margin``; five of (B, 3, size, size)."""
    from torchvision.transforms import v2

    return v2.functional.five_crop(_shown(images, resized_side(settings, size, True), interpolation), [size, size])


def ten_crops(images: Tensor, size: int, settings: ViewSettings,
              interpolation: Interpolation = "bilinear") -> tuple[Tensor, ...]:
    """``five_crops``, and those of the mirrored image."""
    five, mirrored = (five_crops(one, size, settings, interpolation) for one in (images, images.flip(-1)))
    return (*five, *mirrored)


def random_crops(images: Tensor, size: int, settings: ViewSettings, draws: Iterable[torch.Generator],
                 interpolation: Interpolation = "bilinear") -> tuple[Tensor, ...]:
    """``settings.random_crops`` crops of each of ``images`` uint8 (B, 3, H, W), drawn from its own of ``draws``."""
    drawn = [draw_test_crops(images.shape[-2], images.shape[-1], settings, g) for g in draws]
    boxes, flips = torch.stack([one.boxes for one in drawn], 1), torch.stack([one.flips for one in drawn], 1)
    return tuple(crop_and_resize(images, b, size, f, interpolation) / 255 for b, f in zip(boxes, flips, strict=True))


def draw_test_crops(height: int, width: int, settings: ViewSettings, g: torch.Generator) -> Draws:
    """The random crops of one test image."""
    return draw_train_views(settings.random_crops, height, width, crop, settings, g)


def evaluation_views(images: Tensor, size: int, settings: ViewSettings, ensembling: bool,
                     interpolation: Interpolation = "bilinear", draws: Iterable[torch.Generator] = ()) -> tuple[Tensor, ...]:
    """The centre view alone, or the crops of ``settings.ensemble``; the random ones need a generator for each image."""
    if not ensembling:
        return (centre_view(images, size, settings, interpolation),)
    if settings.ensemble == "random_crops":
        return random_crops(images, size, settings, draws, interpolation)
    return (five_crops if settings.ensemble == "five_crops" else ten_crops)(images, size, settings, interpolation)


def resize(images: Tensor, side: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """``images`` (..., 3, H, W) with the shorter side at ``side`` pixels; bytes stay bytes."""
    from torchvision.transforms import v2

    return v2.functional.resize(images, [side], v2.InterpolationMode(interpolation), antialias=True)


def _shown(images: Tensor, side: int, interpolation: Interpolation) -> Tensor:
    pixels = images.float() / 255
    return pixels if min(images.shape[-2:]) == side else resize(pixels, side, interpolation).clamp(0, 1)
