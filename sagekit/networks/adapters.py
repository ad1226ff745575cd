"""The adapters: AdaptFormer (Eq 5-6), SG-Adapter (Eq 7-9) and the SG-Adapter's exact folded form.

On tokens f~ = MSA(f) + f of one block (after attention, before the MLP), with guidance w_bar in R^d:

    AdaptFormer   s * ( ReLU(LN(f~) W_down + b) W_up + b_up )

    SG-Adapter    f_v   = LN(f~),   f_t = LN(w_bar)                                   (one shared LN)
      Eq 7        f_vt  = (f_t W_proj + b_proj) * f_v = g * f_v                       (g: one row for all tokens)
      Eq 8        u     = (f_v W_down_v) || (f_vt W_down_vt + s_vt (f_t W_down_t))    in R^{2r}, each W with its bias
                  out   = alpha (ReLU(u) W_up) + (1 - alpha) (u W_up) = LeakyReLU_{1 - alpha}(u) W_up + b_up
      Eq 9        f_next = MLP(LN(f~)) + s * out + f~                                 (``forward`` returns s * out)

    Folded        with w_bar fixed: u = n [A_v W_down_v | A_v diag(g) W_down_vt] + constant, where n is LN(f~) without
                  its affine part A_v, b_v: a bottleneck adapter of width 2r with LeakyReLU

w_bar does not depend on the image, so g and the text half of u are computed once a step and never a token.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError

Gate = Literal["projection", "vector", "text"]
GateInit = Literal["zero", "identity", "kaiming"]
Down = Literal["normal", "uniform"]
"""Kaiming's law that a down projection starts from."""


def default_bottleneck(classes: int, layers: int) -> int:
    """The rule r = 2^max(0, floor(log2(C / (2 L)))) that reproduces the published parameter counts."""
    return 2 ** max(0, math.floor(math.log2(classes / (2 * layers))))


def down_projection(width: int, bottleneck: int, law: Down = "normal") -> nn.Linear:
    """d -> r as it starts: Kaiming's ``law`` with a = sqrt 5 (LIFT: normal, LIFT+: uniform; both of spread 1 / sqrt(3 d)), bias
    zero."""
    layer = nn.Linear(width, bottleneck)
    start = nn.init.kaiming_normal_ if law == "normal" else nn.init.kaiming_uniform_
    start(layer.weight, a=math.sqrt(5))
    nn.init.zeros_(layer.bias)
    return layer


def up_projection(bottleneck: int, width: int) -> nn.Linear:
    """r -> d as it starts: zero."""
    layer = nn.Linear(bottleneck, width)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _scaled(layer: nn.Linear, scale: Tensor, hidden: Tensor) -> Tensor:
    """s * layer(hidden), with s taken into the weights: they are smaller than the tokens."""
    return F.linear(hidden, scale * layer.weight, scale * layer.bias)


class AdaptFormer(nn.Module):
    """LIFT's adapter, Eq 5-6: (2r + 3) d + r + 1 parameters. Starts as the zero function (W_up = 0).

    Args:
        width: d, the transformer's width.
        bottleneck: r.
        scale_init: s at the start.
        slope: of the activation below zero; 0 is Eq 5's ReLU, 1 - alpha the SG-Adapter's (a control without text).
        down: the law of W_down at the start.
    """

    def __init__(self, width: int, bottleneck: int, scale_init: float = 1.0, slope: float = 0.0, down: Down = "normal") -> None:
        super().__init__()
        self.slope = slope
        self.norm = nn.LayerNorm(width)
        self.down = down_projection(width, bottleneck, down)
        self.up = up_projection(bottleneck, width)
        self.scale = nn.Parameter(torch.tensor(float(scale_init)))

    def forward(self, tokens: Tensor, guidance: Tensor | None = None) -> Tensor:
        """``tokens`` (..., d) -> s * a (..., d), to be added to the residual stream. ``guidance`` is not used."""
        return _scaled(self.up, self.scale, F.leaky_relu(self.down(self.norm(tokens)), self.slope))


class SGAdapter(nn.Module):
    """The paper's adapter, Eq 7-9: (5r + d + 4) d + 3r + 2 parameters. Starts as the zero function (W_up = 0).

    Args:
        width: d, the transformer's width.
        bottleneck: r; the up projection takes 2r.
        alpha: weight of the ReLU branch in Eq 8, in [0, 1]; 1 is ReLU, 0 is linear.
        gate: how g is made. ``projection`` is Eq 7 (W_proj, d^2 + d parameters); ``vector`` trains g itself
            (d parameters; findings 5 and 18); ``text`` is Tables 10-12's "w/o W_proj": g = f_t.
        gate_init: W_proj at the start. ``zero``: g = 0; ``identity``: g = f_t; ``kaiming``: like W_down. b_proj = 0.
        scale_init: s and s_vt at the start.
    """

    def __init__(self, width: int, bottleneck: int, alpha: float = 0.1, gate: Gate = "projection",
                 gate_init: GateInit = "identity", scale_init: float = 1.0) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha is {alpha:g}; it weighs two branches (Eq 8) and must lie in 0..1.")
        self.alpha = alpha
        self.norm = nn.LayerNorm(width)
        if gate == "projection":
            self.proj = nn.Linear(width, width)
            _init_gate(self.proj, gate_init)
        elif gate == "vector":
            self.gate = nn.Parameter(torch.zeros(width))
        self.down_v = down_projection(width, bottleneck)
        self.down_vt = down_projection(width, bottleneck)
        self.down_t = down_projection(width, bottleneck)
        self.up = up_projection(2 * bottleneck, width)
        self.scale_vt = nn.Parameter(torch.tensor(float(scale_init)))
        self.scale = nn.Parameter(torch.tensor(float(scale_init)))

    def gate_vector(self, guidance: Tensor) -> Tensor:
        """g (d,) of Eq 7 for ``guidance`` w_bar (d,)."""
        if hasattr(self, "gate"):
            return self.gate
        text = self.norm(guidance)
        return self.proj(text) if hasattr(self, "proj") else text

    def forward(self, tokens: Tensor, guidance: Tensor) -> Tensor:
        """``tokens`` (..., d) and ``guidance`` w_bar (d,) -> s * out (..., d), to be added to the residual stream.

        Both halves of Eq 8 are one product with [W_down_v | diag(g) W_down_vt], so a token costs what it costs in an
        AdaptFormer of bottleneck 2r.
        """
        weight, bias = self._down_weights(guidance)
        hidden = F.linear(self.norm(tokens), weight, bias)  # (..., 2r)
        return _scaled(self.up, self.scale, F.leaky_relu(hidden, 1 - self.alpha))

    def _down_weights(self, guidance: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (2r, d) and bias (2r,) that take f_v to u."""
        text_half = self.down_t(self.norm(guidance))  # (r,)
        weight = torch.cat([self.down_v.weight, self.down_vt.weight * self.gate_vector(guidance)])
        bias = torch.cat([self.down_v.bias, self.down_vt.bias + self.scale_vt * text_half])
        return weight, bias

    @torch.no_grad()
    def fold(self, guidance: Tensor) -> FoldedAdapter:
        """The plain module on tokens that gives the same output for this ``guidance`` (d,)."""
        weight, bias = self._down_weights(guidance)
        folded = FoldedAdapter(weight.shape[1], weight.shape[0], self.alpha, self.norm.eps).to(weight)
        folded.down.weight.copy_(weight * self.norm.weight)
        folded.down.bias.copy_(bias + weight @ self.norm.bias)
        folded.up.weight.copy_(self.scale * self.up.weight)
        folded.up.bias.copy_(self.scale * self.up.bias)
        return folded

    @torch.no_grad()
    def with_vector_gate(self, guidance: Tensor) -> SGAdapter:
        """This adapter with its gate held as a vector: same output at ``guidance``, d^2 fewer parameters."""
        width, bottleneck = self.norm.normalized_shape[0], self.down_v.out_features
        twin = SGAdapter(width, bottleneck, self.alpha, gate="vector").to(self.up.weight)
        twin.load_state_dict({name: value for name, value in self.state_dict().items() if not name.startswith("proj.")}
                             | {"gate": self.gate_vector(guidance)})
        return twin


def _init_gate(proj: nn.Linear, gate_init: GateInit) -> None:
    if gate_init == "zero":
        nn.init.zeros_(proj.weight)
    elif gate_init == "identity":
        nn.init.eye_(proj.weight)
    else:
        nn.init.kaiming_normal_(proj.weight, a=math.sqrt(5))
    nn.init.zeros_(proj.bias)


class FoldedAdapter(nn.Module):
    """A trained SG-Adapter with its guidance folded in: 2 h d + h + d parameters, h = 2r."""

    def __init__(self, width: int, hidden: int, alpha: float, eps: float = 1e-5) -> None:
        super().__init__()
        self.alpha = alpha
        self.norm = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, guidance: Tensor | None = None) -> Tensor:
        """``tokens`` (..., d) -> (..., d). ``guidance`` is not used: it is inside the weights."""
        return self.up(F.leaky_relu(self.down(self.norm(tokens)), 1 - self.alpha))


def count(module: nn.Module) -> int:
    """Number of parameters that a module holds."""
    return sum(p.numel() for p in module.parameters())
