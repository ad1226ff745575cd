"""Sage (Peng et al. 2025): LIFT with an adapter that the classes' text guides, a compensation factor in the loss, and
feature interchange.

    w_bar = (1/C) sum_i w_i,   f_v = LN(f~),   f_t = LN(w_bar)
    Eq 7   f_vt  = (f_t W_proj) * f_v
    Eq 8   u     = (f_v W_down_v) || (f_vt W_down_vt + s_vt (f_t W_down_t)),   out = alpha ReLU(u) W_up + (1 - alpha) u W_up
    Eq 9   f_next = MLP(LN(f~)) + s out + f~
    Eq 21  Lambda_i = mu n_i^gamma S_N / (C n_min)
    Eq 22  l(x, y=i) = -log( e^{z_i} n_i Lambda_i / sum_k e^{z_k} n_k Lambda_k )
    Eq 23  z^_i = z_i + s_1 z^v_i + s_2 z^t_i,   z_i = k w_i . f,   z^v_i = k w_i . f^zs,   z^t_i = k w^zs_i . f
    Eq 24  l' = l(z) + lambda_1 l(z^v) + lambda_2 l(z^t) + lambda_3 l(z^)

It believes that the images of rare classes differ between training and test, and that the classes' text tells what the images
do not. ``fit=false``, ``gamma=0``, ``templates=1`` are its parts switched off (Table 5).

Where the paper is silent, and what we do: docs/choices.md. No code of its authors is public. The audit says what its equations
come to: mu cancels, the factor is logit adjustment with tau = 1 + gamma, the adapter folds into a leaky bottleneck.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..data.batches import Batch
from ..losses import compensated, interchanged
from ..networks.adapters import Gate, SGAdapter, default_bottleneck
from ..networks.backbone import Backbone
from ..networks.heads import Cosine, Features, Logits, accuracy
from ..networks.tuned import Tuned
from . import Method, Now, Published, Task
from ._stages import FineTuning, Stage, Texts

MINI: dict[str, Any] = {"bottleneck": 8, "epochs": 5, "batch_size": 64}
"""LIFT's optimisation, and Table 8's CIFAR-100-LT 100 for the rest (the defaults)."""

_KEYS = ("alpha", "mu", "gamma", "lambda_1", "lambda_2", "lambda_3", "epochs")


def _row(source: str, numbers: dict[str, float], *table_8: float) -> Published:
    return Published(numbers, source, dict(zip(_KEYS, table_8, strict=True)))


PUBLISHED = {
    "cifar100-lt-100": _row("Table 1, row Sage", {"all": 83.3}, 0.1, 0.5, 0.050, 0.015, 0.015, 0.4, 10),
    "cifar100-lt-50": _row("Table 1, row Sage", {"all": 84.6}, 0.1, 0.5, 0.060, 0.0001, 0.01, 0.6, 10),
    "cifar100-lt-10": _row("Table 1, row Sage", {"all": 86.3}, 0.1, 0.5, 0.060, 0.002, 0.005, 0.2, 10),
    "places-lt": _row("Table 2, row Sage", {"all": 52.7, "head": 51.8, "medium": 52.8, "tail": 53.8},
                      0.8, 0.5, 0.050, 0.003, 0.01, 0.2, 10),
    "imagenet-lt": _row("Table 3, row Sage", {"all": 78.8, "head": 82.1, "medium": 77.3, "tail": 74.8},
                        0.8, 0.5, 0.050, 0.005, 0.01, 0.2, 10),
    "inat2018": _row("Table 4, row Sage", {"all": 80.9, "head": 74.0, "medium": 80.6, "tail": 83.1},
                     1.0, 0.5, 0.085, 1e-7, 1e-7, 1e-7, 20),
}
"""Settings: Table 8; epochs: section 4.2."""


class Sage(Method):
    """A CLIP with SG-Adapters, a cosine classifier, and FIT's two scalars."""

    class Settings(FineTuning, Texts):
        bottleneck: int | None = Field(None, ge=1, description="r; empty: 2^max(0, floor(log2(C / 2L))) (finding 6)")
        alpha: float = Field(0.1, ge=0, le=1, description="weight of the ReLU branch, Eq 8 (Table 8)")
        gate: Literal["projection", "vector", "text", "folded"] = Field(
            "projection", description="W_proj, a plain vector, none, or as a control the folded form (finding 4) as it is")
        guidance: Literal["text", "frozen", "shuffled", "random", "constant"] = Field(
            "text", description="w_bar, or as a control a vector in its place, see Sage.guidance")
        gate_init: Literal["zero", "identity", "kaiming"] = Field("identity", description="W_proj at the start; open choice")
        scale_init: float = Field(1.0, description="s and s_vt of the adapters at the start (LIFT)")
        guidance_grad: bool = Field(True, description="gradient flows through w_bar into W; open choice")
        gamma: float = Field(0.05, ge=0, le=1, description="Eq 21 (Table 8); 0: no compensation factor")
        mu: float = Field(0.5, gt=0, description="Eq 21 (Table 8); cancels in Eq 22")
        fit: bool = Field(True, description="feature interchange, Eq 23-24")
        fit_init: float = Field(0.5, description="s_1 and s_2 at the start; open choice")
        fit_learned: bool = Field(True, description="s_1 and s_2 are trained; no: they stay as they start, as a control")
        lambda_1: float = Field(0.015, ge=0, le=100, description="weight of l(z^v), Eq 24 (Table 8)")
        lambda_2: float = Field(0.015, ge=0, le=100, description="weight of l(z^t), Eq 24 (Table 8)")
        lambda_3: float = Field(0.4, ge=0, le=100, description="weight of l(z^), Eq 24 (Table 8)")

    needs = "clip"
    paper = "Peng, Zhang and Cheung, Semantic-guided Fine-tuning of Foundation Model for Long-tailed Visual Recognition, 2025"

    text: Tensor
    instead: Tensor
    s_v: Tensor
    s_t: Tensor
    folded = False
    dropped = False
    """Whether z^v is left out: in a folded run whose s_1 is 0."""

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        assert task.backbone is not None
        text = settings.rows(task.backbone, task.class_names, task.sentences)
        rank = settings.bottleneck or default_bottleneck(len(text), task.backbone.layers)
        adapters = _adapters(settings, text, rank, task.backbone.layers)
        self.net = Tuned(task.backbone, adapters, checkpointing=task.checkpointing)
        self.head = Cosine(text, settings.logit_scale)
        self.register_buffer("text", text.clone(), persistent=False)
        self.register_buffer("instead", _instead(settings.guidance, self.head.mean_row().detach()), persistent=False)
        for name in ("s_v", "s_t") if settings.fit else ():
            start = torch.tensor(settings.fit_init)
            if settings.fit_learned:
                self.register_parameter(name, nn.Parameter(start))
            else:
                self.register_buffer(name, start, persistent=False)

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return [settings.stage(multiple=gate_rate if settings.gate == "vector" else None)]

    def guidance(self) -> Tensor:
        """w_bar (d,), or what a control puts in its place: the ``frozen`` mean of W^zs, a ``random`` vector, a ``constant``
        (ones: LayerNorm takes it to its bias, zero at the start, so nothing is said of the classes), or the entries of w_bar
        ``shuffled`` (one order, kept)."""
        if self.settings.guidance == "shuffled":
            return self.mean_row()[self.instead]
        return self.mean_row() if self.settings.guidance == "text" else self.instead

    def mean_row(self) -> Tensor:
        """w_bar (d,), with a gradient or without."""
        return self.head.mean_row() if self.settings.guidance_grad else self.head.mean_row().detach()

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (batch,), s = batches, self.settings
        z = self.logits(batch.views[0])

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            return compensated(logits, labels, self.counts, s.gamma, s.mu)

        right = accuracy(z.prediction, batch.labels)
        if z.z_v is None or z.z_t is None:  # without FIT
            return {"loss": loss(z.z, batch.labels), "train_accuracy": right}
        terms = interchanged(z.z, z.z_v, z.z_t, z.prediction, batch.labels, loss, s.lambda_1, s.lambda_2, s.lambda_3)
        return {**terms, "train_accuracy": right}

    @property
    def second_pass(self) -> bool:
        """Whether an image goes through the frozen network too."""
        return self.settings.fit and not self.dropped

    def frozen_backbone(self) -> Backbone | None:
        return self.net.backbone if self.second_pass else None

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        return self.net(images, self.guidance(), frozen, with_frozen=self.second_pass)

    def classify(self, features: Features) -> Logits:
        z = self.head(features.own)
        if not self.settings.fit:
            return Logits.plain(z)
        z_t = self.head.scale * F.normalize(features.own, dim=-1) @ self.text.T
        if features.frozen is None:
            return Logits(z, None, z_t, z + self.s_t * z_t)
        z_v = self.head(features.frozen)
        return Logits(z, z_v, z_t, z + self.s_v * z_v + self.s_t * z_t)

    def load_trained(self, tensors: Mapping[str, Tensor], source: str) -> None:
        super().load_trained(tensors, source)
        self.dropped = self.folded and self.settings.fit and self.s_v.item() == 0

    def scalars(self) -> dict[str, float]:
        return {"s_v": self.s_v.item(), "s_t": self.s_t.item()} if self.settings.fit else {}

    @torch.no_grad()
    def drop_frozen(self) -> None:
        """Predict z + s_2 z^t from now on, without the second pass (s_1 = 0)."""
        self.s_v.zero_()
        self.dropped = True

    @torch.no_grad()
    def fold(self) -> Sage:
        """Replace every SG-Adapter by its folded form (finding 4), in place; the outputs stay the same. Returns itself."""
        assert self.net.adapters is not None
        guidance = self.guidance()
        self.folded = True
        self.net.adapters = nn.ModuleList(a.fold(guidance) if isinstance(a, SGAdapter) else a for a in self.net.adapters)
        return self


def gate_rate(name: str, parameter: nn.Parameter) -> float:
    """The multiple of a gate that is held as a vector (finding 5): a step on W_proj and its bias moves the gate by
    lr (|f_t|^2 + 1), and |f_t|^2 = d after LayerNorm at its start."""
    return len(parameter) + 1.0 if name.endswith(".gate") else 1.0


def _instead(kind: str, w_bar: Tensor) -> Tensor:
    """What stands in w_bar's place, (d,): a vector of its length, or for ``shuffled`` the order of its entries."""
    g = torch.Generator().manual_seed(0)
    if kind == "shuffled":
        return torch.randperm(len(w_bar), generator=g).to(w_bar.device)
    other = {"random": torch.randn(len(w_bar), generator=g).to(w_bar), "constant": torch.ones_like(w_bar)}.get(kind, w_bar)
    return w_bar.norm() * F.normalize(other, dim=0)


def _adapters(s: Sage.Settings, text: Tensor, rank: int, layers: int) -> list[nn.Module]:
    gate: Gate = s.gate if s.gate in ("projection", "text") else "projection"
    adapters = [SGAdapter(text.shape[1], rank, s.alpha, gate, s.gate_init, s.scale_init) for _ in range(layers)]
    w_bar = F.normalize(text, dim=-1).mean(0)
    if s.gate == "vector":  # starts where the projection would start; so does the folded form
        return [adapter.to(text).with_vector_gate(w_bar) for adapter in adapters]
    if s.gate == "folded":
        return [adapter.to(text).fold(w_bar) for adapter in adapters]
    return list(adapters)
