"""The model: modules in a frozen CLIP, a cosine classifier that starts from text, and feature interchange (FIT).

    z_i = k w_i . f,    z^v_i = k w_i . f^zs,    z^t_i = k w^zs_i . f          (rows and features L2-normalised, k = 25)

    Eq 23   z^_i = z_i + s_1 z^v_i + s_2 z^t_i                                 (training AND prediction)

w_bar = (1/C) sum_i w_i guides every SG-Adapter. The frozen branch (f^zs) and the adapted one share what is identical:
the patch embedding and, since SG-Adapter and AdaptFormer enter after them, block 1's attention and MLP. Only the CLS token
leaves the last block, so its query, MLP and adapter run for that token alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import SCRATCH, Config
from ..data.prompts import TEMPLATES
from ..data.world import CLASS_NAMES
from ..errors import UserError
from ..losses.contrast import build_scratch
from .adapters import AdaptFormer, SGAdapter, default_bottleneck
from .backbone import Backbone, load_backbone
from .frozen import text_features
from .heads import Classifier, Logits
from .modules import Adapter, Prompts, twin


class Model(Classifier):
    """A frozen backbone with one trained module in every block, classifier rows and FIT scalars.

    Attributes: ``backbone`` is frozen; ``tuned`` is the one that images go through: the same, or a twin of it that trains some
    of its tensors (bitfit, lora, full). ``adapters`` (one a block) and ``prompts`` are None where the module has none.

    Args:
        backbone: the frozen CLIP.
        text: W^zs (C, d), the classifier's start and FIT's fixed text rows.
        config: the switches (module, bottleneck, alpha, gate, fit, ...).
    """

    text: Tensor

    def __init__(self, backbone: Backbone, text: Tensor, config: Config) -> None:
        super().__init__()
        self.name, self.image_size = backbone.name, backbone.image_size
        self.backbone = backbone
        self.register_buffer("text", text.clone(), persistent=False)
        self.classifier = nn.Parameter(text.clone())
        r = config.bottleneck or default_bottleneck(len(text), backbone.layers)
        self.tuned = twin(backbone, config.module, r) if config.module in ("bitfit", "lora", "full") else backbone
        self.adapters = _adapters(backbone, text, r, config)
        self.prompts = _prompts(backbone, config)
        self.frozen_alone = config.module == "none"
        self.shares_start = self.tuned is backbone and self.prompts is None  # block 1 is frozen up to its adapter
        self.logit_scale = config.logit_scale
        self.guidance_grad = config.guidance_grad
        self.checkpointing = config.checkpointing
        self.fit = config.fit
        if config.fit:
            self.s_v = nn.Parameter(torch.tensor(config.fit_init))
            self.s_t = nn.Parameter(torch.tensor(config.fit_init))

    def guidance(self) -> Tensor:
        """w_bar (d,): the mean of the normalised classifier rows."""
        rows = self.classifier if self.guidance_grad else self.classifier.detach()
        return F.normalize(rows, dim=-1).mean(0)

    def features(self, images: Tensor, frozen: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The tuned feature f and, with FIT, the frozen f^zs, both (B, d), of ``images`` (B, 3, H, W).

        ``frozen`` (B, d) is f^zs where it is known already. Without a module f is the frozen feature.
        """
        net, last = self.backbone, self.backbone.layers - 1
        if self.frozen_alone:
            with torch.no_grad():
                frozen = net.features(images) if frozen is None else frozen
            return frozen, frozen if self.fit else None
        needs_frozen, guidance = self.fit and frozen is None, self.guidance()
        tokens = self.tuned.embed(images)
        cold = net.embed(images) if needs_frozen and self.tuned is not net else tokens
        for index in range(last + 1):
            mid, output, tokens = self._run(index, tokens, guidance, index == last)
            if needs_frozen and index == 0 and self.shares_start:
                cold = mid + output
            elif needs_frozen:
                with torch.no_grad():
                    cold = net.attend(index, cold, cls_only=index == last)
                    cold = cold + net.mlp(index, cold)
        return self.tuned.pool(tokens), net.pool(cold) if needs_frozen else frozen if self.fit else None

    def _run(self, index: int, tokens: Tensor, guidance: Tensor, cls_only: bool) -> tuple[Tensor, Tensor, Tensor]:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self.block, index, tokens, guidance, cls_only, use_reentrant=False)
        return self.block(index, tokens, guidance, cls_only)

    def block(self, index: int, tokens: Tensor, guidance: Tensor, cls_only: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Block ``index`` with its module, on ``tokens`` (B, N, d): f~ (after attention), MLP(LN(f~)), and the block's output.

        All (B, N, d) (N + p with prompts), or (B, 1, d) with ``cls_only``.
        """
        if self.prompts is not None:
            tokens = self.prompts(index, tokens)
        mid = self.tuned.attend(index, tokens, cls_only)
        output = self.tuned.mlp(index, mid)
        if self.adapters is None:
            return mid, output, mid + output
        adapter = self.adapters[index]
        change = adapter(output) if isinstance(adapter, Adapter) else adapter(mid, guidance)
        return mid, output, mid + output + change

    def classify(self, feature: Tensor, frozen: Tensor | None) -> Logits:
        """Eq 23 on features (B, d)."""
        rows, f = F.normalize(self.classifier, dim=-1), F.normalize(feature, dim=-1)
        z = self.logit_scale * f @ rows.T
        if frozen is None:
            return Logits(z, None, None, z)
        z_v = self.logit_scale * F.normalize(frozen, dim=-1) @ rows.T
        z_t = self.logit_scale * f @ self.text.T
        return Logits(z, z_v, z_t, z + self.s_v * z_v + self.s_t * z_t)

    def parameter_counts(self) -> dict[str, int]:
        """Trained parameters: the module's in all blocks, classifier rows, FIT scalars."""
        rows, scalars = self.classifier.numel(), 2 if self.fit else 0
        every = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return {"module": every - rows - scalars, "classifier": rows, "fit": scalars}

    @torch.no_grad()
    def fold(self) -> Model:
        """Replace every SG-Adapter by its folded form, in place; the outputs stay the same. Returns itself.

        Raises ``UserError`` when the model has no SG-Adapters.
        """
        if self.adapters is None or not all(isinstance(a, SGAdapter) for a in self.adapters):
            raise UserError("only a model with SG-Adapters can be folded (method sage, or module=sg).")
        guidance = self.guidance()
        self.adapters = nn.ModuleList(a.fold(guidance) for a in self.adapters if isinstance(a, SGAdapter))
        return self


def _adapters(backbone: Backbone, text: Tensor, r: int, config: Config) -> nn.ModuleList | None:
    width, layers = backbone.width, range(backbone.layers)
    if config.module == "adapter":
        return nn.ModuleList(Adapter(width, r) for _ in layers)
    if config.module == "adaptformer":
        return nn.ModuleList(AdaptFormer(width, r, config.scale_init) for _ in layers)
    if config.module != "sg":
        return None
    gate = "projection" if config.gate == "vector" else config.gate
    adapters = [SGAdapter(width, r, config.alpha, gate, config.gate_init, config.scale_init) for _ in layers]
    if config.gate == "vector":  # starts where the projection would start
        guidance = F.normalize(text, dim=-1).mean(0)
        adapters = [adapter.to(text).with_vector_gate(guidance) for adapter in adapters]
    return nn.ModuleList(adapters)


def _prompts(backbone: Backbone, config: Config) -> Prompts | None:
    if config.module not in ("vpt-shallow", "vpt-deep"):
        return None
    patch = backbone.visual.conv1.kernel_size[0]
    return Prompts(backbone.width, config.prompts, backbone.layers, int(patch), deep=config.module == "vpt-deep")


def build_model(config: Config, class_names: Sequence[str] | None = None, backbone: Backbone | None = None,
                device: torch.device | str = "cpu") -> Model:
    """The model of ``config`` for ``class_names`` on ``device``, freshly initialised from ``config.seed``.

    ``class_names`` may be left out for the mini world. ``backbone`` saves loading the frozen weights again. Raises
    ``UserError`` as ``load_backbone`` does, and for the backbone that is trained from scratch (``build_classifier``).
    """
    if config.backbone == SCRATCH:
        raise UserError(f"{SCRATCH} is trained from scratch and has no frozen CLIP; build_classifier makes it.")
    class_names = _class_names(config, class_names)
    backbone = (backbone or load_backbone(config)).to(device)
    templates = TEMPLATES if config.templates == len(TEMPLATES) else (config.single_template,)
    text = text_features(backbone, class_names, templates, config.text_average == "normalised")
    torch.manual_seed(config.seed)
    return Model(backbone, text, config).to(device)


def build_classifier(config: Config, class_names: Sequence[str] | None = None, backbone: Backbone | None = None,
                     device: torch.device | str = "cpu") -> Classifier:
    """``build_model``, or the network from scratch where ``config.backbone`` is that."""
    if config.backbone != SCRATCH:
        return build_model(config, class_names, backbone, device)
    return build_scratch(config, len(_class_names(config, class_names))).to(device)


def _class_names(config: Config, class_names: Sequence[str] | None) -> Sequence[str]:
    if class_names is None and config.dataset != "world":
        raise UserError("the class names of this data set are needed; load_data(config).class_names has them.")
    return CLASS_NAMES if class_names is None else class_names
