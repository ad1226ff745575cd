"""The model: adapters in a frozen CLIP, a cosine classifier that starts from text, and feature interchange (FIT).

    z_i = k w_i . f,    z^v_i = k w_i . f^zs,    z^t_i = k w^zs_i . f          (rows and features L2-normalised, k = 25)

    Eq 23   z^_i = z_i + s_1 z^v_i + s_2 z^t_i                                 (training AND prediction)

w_bar = (1/C) sum_i w_i guides every SG-Adapter. The frozen branch (f^zs) and the adapted one share what is identical:
the patch embedding and, since the adapter enters after them, block 1's attention and MLP. Only the CLS token leaves the
last block, so its query, MLP and adapter run for that token alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adapters import AdaptFormer, SGAdapter, default_bottleneck
from .backbone import Backbone, load_backbone
from .config import Config
from .errors import UserError
from .prompts import TEMPLATES
from .world import CLASS_NAMES


class Logits(NamedTuple):
    """All (B, C). ``z_v``, ``z_t`` are None without FIT, and then ``prediction`` is ``z``."""

    z: Tensor
    z_v: Tensor | None
    z_t: Tensor | None
    prediction: Tensor


class Model(nn.Module):
    """A frozen backbone with trained adapters, classifier rows and FIT scalars.

    Args:
        backbone: the frozen CLIP.
        text: W^zs (C, d), the classifier's start and FIT's fixed text rows.
        config: the switches (adapter, bottleneck, alpha, gate, fit, ...).
    """

    text: Tensor

    def __init__(self, backbone: Backbone, text: Tensor, config: Config) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("text", text.clone(), persistent=False)
        self.classifier = nn.Parameter(text.clone())
        self.adapters = _adapters(backbone, text, config)
        self.logit_scale = config.logit_scale
        self.guidance_grad = config.guidance_grad
        self.fit = config.fit
        if config.fit:
            self.s_v = nn.Parameter(torch.tensor(config.fit_init))
            self.s_t = nn.Parameter(torch.tensor(config.fit_init))

    def guidance(self) -> Tensor:
        """w_bar (d,): the mean of the normalised classifier rows."""
        rows = self.classifier if self.guidance_grad else self.classifier.detach()
        return F.normalize(rows, dim=-1).mean(0)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The adapted feature f and, with FIT, the frozen f^zs, both (B, d), of ``images`` (B, 3, H, W).

        Without adapters both are the frozen feature.
        """
        if self.adapters is None:
            with torch.no_grad():
                frozen = self.backbone.features(images)
            return frozen, frozen if self.fit else None
        net, guidance, last = self.backbone, self.guidance(), self.backbone.layers - 1
        with torch.no_grad():  # identical in both branches up to the first adapter
            mid = net.attend(0, net.embed(images), cls_only=last == 0)
            frozen = mid + net.mlp(0, mid)
        adapted = frozen + self.adapters[0](mid, guidance)
        for index in range(1, last + 1):
            if self.fit:
                with torch.no_grad():
                    frozen = net.attend(index, frozen, cls_only=index == last)
                    frozen = frozen + net.mlp(index, frozen)
            mid = net.attend(index, adapted, cls_only=index == last)
            adapted = mid + net.mlp(index, mid) + self.adapters[index](mid, guidance)
        return net.pool(adapted), net.pool(frozen) if self.fit else None

    def classify(self, feature: Tensor, frozen: Tensor | None) -> Logits:
        """Eq 23 on features (B, d)."""
        rows, f = F.normalize(self.classifier, dim=-1), F.normalize(feature, dim=-1)
        z = self.logit_scale * f @ rows.T
        if frozen is None:
            return Logits(z, None, None, z)
        z_v = self.logit_scale * F.normalize(frozen, dim=-1) @ rows.T
        z_t = self.logit_scale * f @ self.text.T
        return Logits(z, z_v, z_t, z + self.s_v * z_v + self.s_t * z_t)

    def forward(self, images: Tensor) -> Logits:
        """Logits of ``images`` (B, 3, H, W), uint8 or float in 0..1."""
        return self.classify(*self.features(images))

    def trained(self) -> dict[str, Tensor]:
        """What was trained, by name: the content of a run's ``weights.safetensors``."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

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

    @torch.no_grad()
    def fold(self) -> Model:
        """Replace every SG-Adapter by its folded form, in place; the outputs stay the same. Returns itself.

        Raises ``UserError`` when the model has no SG-Adapters.
        """
        if self.adapters is None or not all(isinstance(a, SGAdapter) for a in self.adapters):
            raise UserError("only a model with SG-Adapters can be folded (method sage, or adapter=sg).")
        guidance = self.guidance()
        self.adapters = nn.ModuleList(a.fold(guidance) for a in self.adapters if isinstance(a, SGAdapter))
        return self


def _adapters(backbone: Backbone, text: Tensor, config: Config) -> nn.ModuleList | None:
    if config.adapter == "none":
        return None
    width = backbone.width
    r = config.bottleneck or default_bottleneck(len(text), backbone.layers)
    if config.adapter == "adaptformer":
        return nn.ModuleList(AdaptFormer(width, r, config.scale_init) for _ in range(backbone.layers))
    gate = "projection" if config.gate == "vector" else config.gate
    adapters = [SGAdapter(width, r, config.alpha, gate, config.gate_init, config.scale_init) for _ in range(backbone.layers)]
    if config.gate == "vector":  # starts where the projection would start
        guidance = F.normalize(text, dim=-1).mean(0)
        adapters = [adapter.to(text).with_vector_gate(guidance) for adapter in adapters]
    return nn.ModuleList(adapters)


def build_model(config: Config, class_names: Sequence[str] | None = None, backbone: Backbone | None = None,
                device: torch.device | str = "cpu") -> Model:
    """The model of ``config`` for ``class_names`` on ``device``, freshly initialised from ``config.seed``.

    ``class_names`` may be left out for the mini world. ``backbone`` saves loading the frozen weights again. Raises
    ``UserError`` as ``load_backbone`` does.
    """
    if class_names is None:
        if config.dataset != "world":
            raise UserError("build_model needs the class names of this data set; load_data(config).class_names has them.")
        class_names = CLASS_NAMES
    backbone = (backbone or load_backbone(config)).to(device)
    templates = TEMPLATES if config.templates == len(TEMPLATES) else (config.single_template,)
    text = backbone.text_features(class_names, templates, config.text_average == "normalised")
    torch.manual_seed(config.seed)
    return Model(backbone, text, config).to(device)
