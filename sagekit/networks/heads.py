"""What every trained classifier gives to training and measuring: logits, and its trained tensors by name."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError


class Logits(NamedTuple):
    """All (B, C). ``z_v``, ``z_t`` are None without FIT, and then ``prediction`` is ``z``. ``embedding`` (B, p) is ProCo's."""

    z: Tensor
    z_v: Tensor | None
    z_t: Tensor | None
    prediction: Tensor
    embedding: Tensor | None = None


class Classifier(nn.Module):
    """A network from images to ``Logits``.

    Attributes: ``name`` of the backbone, ``image_size`` (pixels), ``fit`` (whether it has FIT's scalars ``s_v``, ``s_t``).
    """

    name: str
    image_size: int
    fit: bool = False
    s_v: Tensor
    s_t: Tensor

    def features(self, images: Tensor, frozen: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The trained feature (B, d) and, where logits need it, the frozen one (B, d), of ``images`` (B, 3, H, W), uint8 or
        float in 0..1. ``frozen`` says the latter where it is known already."""
        raise NotImplementedError

    def classify(self, feature: Tensor, frozen: Tensor | None) -> Logits:
        """Logits of what ``features`` gave."""
        raise NotImplementedError

    def forward(self, images: Tensor, frozen: Tensor | None = None) -> Logits:
        """Logits of ``images``; the arguments of ``features``."""
        return self.classify(*self.features(images, frozen))

    def trained(self) -> dict[str, Tensor]:
        """What training changes, by name: the content of a run's ``weights.safetensors``."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def parameter_counts(self) -> dict[str, int]:
        """Number of trained parameters by part; ``classifier`` is one of the parts."""
        raise NotImplementedError

    def load_trained(self, tensors: dict[str, Tensor], source: str) -> None:
        """Fill in what ``trained`` gave. Raises ``UserError`` when names or shapes differ."""
        own = self.trained()
        if own.keys() != tensors.keys():
            odd = sorted(own.keys() ^ tensors.keys())[0]
            raise UserError(f"{source} was trained with other settings: '{odd}' is on one side only.")
        for name, parameter in own.items():
            if parameter.shape != tensors[name].shape:
                raise UserError(f"{source}: '{name}' has shape {tuple(tensors[name].shape)}, this model needs "
                                f"{tuple(parameter.shape)}. Check backbone, bottleneck and the number of classes.")
            with torch.no_grad():
                parameter.copy_(tensors[name])
