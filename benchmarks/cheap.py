"""The numbers of the documents that take no training: ``NUMBERS`` by name, each computed from the code of today.

FIT's scalars stand in the optimiser, so weight decay moves them where the loss does not: SGD with momentum on a zero gradient,

    v <- m v + decay s,   s <- s - lr(epoch) v,   from s = fit_init, for the preset's epochs of ceil(images / batch) steps
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from common import model_of
from scipy.optimize import brentq

from sagekit import Config, SGAdapter, load_backbone, losses
from sagekit.analyses.counting import LAYERS, WIDTH
from sagekit.data.longtail import groups, profile
from sagekit.data.prompts import TEMPLATES
from sagekit.data.world import CLASS_NAMES, COLOURS
from sagekit.methods.sage import gate_rate
from sagekit.networks.adapters import count, default_bottleneck
from sagekit.paper import DATASET_OF, PROFILES, odd

CIFAR_LT = {f"cifar100-lt-{ratio}": int(profile(100, 500, ratio).sum()) for ratio in (100, 50, 10)}


def adapters(classes: int) -> int:
    """Parameters of ViT-B/16's SG-Adapters for ``classes``."""
    return LAYERS * count(SGAdapter(WIDTH, default_bottleneck(classes, LAYERS)))


def folded_block() -> int:
    return count(SGAdapter(WIDTH, 4).fold(torch.randn(WIDTH)))


def mini_parameters(method: str) -> int:
    """What a run of the demo trains."""
    config = Config.preset("mini", method)
    model = model_of(config, load_backbone(config.network), len(CLASS_NAMES))
    return sum(p.numel() for p in model.trained().values())


def mini_clip() -> float:
    return sum(p.numel() for p in load_backbone(Config.preset("mini", "lift").network).clip.parameters()) / 1e6


def tau_beyond_gamma(gamma: float = 0.05) -> float:
    """tau - gamma for the tau at which logit adjustment (Eq 1) is the compensated loss (Eq 22) of ``gamma``."""
    z, y, n = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64), torch.tensor([1]), torch.tensor([500, 60, 5])
    wanted = losses.compensated(z, y, n, gamma, 0.5)
    return brentq(lambda tau: float(losses.logit_adjusted(z, y, n, tau) - wanted), 0, 3) - gamma


def fit_steps(preset: str) -> int:
    """Steps of one epoch."""
    images = CIFAR_LT[preset] if preset in CIFAR_LT else PROFILES[DATASET_OF[preset]].images
    return math.ceil(images / Config.preset(preset, "sage").settings.batch_size)


def fit_scalar(preset: str) -> float:
    """Where weight decay alone takes s_1 and s_2."""
    config = Config.preset(preset, "sage")
    settings, (stage,) = config.settings, config.stages
    s, v = settings.fit_init, 0.0
    for epoch in range(stage.epochs):
        for _ in range(fit_steps(preset)):
            v = settings.momentum * v + settings.weight_decay * s
            s -= settings.lr * stage.rate(epoch, 0.0, stage.epochs) * v
    return s


def own_tail() -> list[int]:
    """README's example of an own long tail: CIFAR-100 without a tenth of each class, at imbalance ratio 100."""
    return profile(100, 450, 100).tolist()


NUMBERS: dict[str, Callable[[], float]] = {
    "sg_adapter_block": lambda: count(SGAdapter(WIDTH, 4)),
    "folded_block": folded_block,
    "gate_rate": lambda: gate_rate("adapters.0.gate", torch.nn.Parameter(torch.zeros(WIDTH))),
    "mini_projection": lambda: count(SGAdapter(128, 8).proj),
    "tau_beyond_gamma": tau_beyond_gamma,
    **{f"bottleneck_{c}": partial(default_bottleneck, c, LAYERS) for c in (10, 100, 365, 1000, 8142)},
    **{f"classifier_{c}": partial(int, c * WIDTH) for c in (10, 100, 365, 1000, 8142)},
    **{f"sage_{c}": partial(adapters, c) for c in (10, 100, 365, 1000, 8142)},
    **{f"fit_scalar_{preset}": partial(fit_scalar, preset)
       for preset in ("cifar100-lt-100", "places-lt", "imagenet-lt", "inat2018")},
    **{f"images_{preset}": partial(int, images) for preset, images in CIFAR_LT.items()},
    "odd_large": lambda: sum(len(odd(number)) for number in (2, 3, 4)),
    "odd_table_7": lambda: odd(7)["system"].size,
    "mini_lift": partial(mini_parameters, "lift"),
    "mini_sage": partial(mini_parameters, "sage"),
    "mini_times": lambda: mini_parameters("sage") / mini_parameters("lift"),
    "mini_clip_millions": mini_clip,
    "mini_classes": lambda: len(CLASS_NAMES),
    "mini_colours": lambda: len(COLOURS),
    "mini_images": lambda: int(profile(len(CLASS_NAMES), 500, 100).sum()),
    "templates": lambda: len(TEMPLATES),
    "own_tail_images": lambda: sum(own_tail()),
    "own_tail_largest": lambda: max(own_tail()),
    "own_tail_smallest": lambda: min(own_tail()),
    "own_tail_ratio": lambda: max(own_tail()) / min(own_tail()),
    **{f"own_tail_{group}": partial(len, classes) for group, classes in groups(own_tail()).items()},
    "own_tail_held": lambda: sum(own_tail()) + 5_000 + 10_000,  # with the tenth and the test images
    "inat_gradients_mb": lambda: 4 * (adapters(8142) + 8142 * WIDTH) / 1e6,
    "notebooks": lambda: len(list(Path(__file__).parents[1].glob("notebooks/[0-9]*.ipynb"))),
}
