"""Class difficulty, for CDB: how many training images of each class were right in the epoch before.

    a_j = right_j / seen_j        all a_j = unknown in the first epoch

The authors measure a_j on held-out images (``compared.difficulty_weights``); a running training accuracy comes near 1 for
memorised tail classes, which then weigh less.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ClassAccuracy(nn.Module):
    """Counts of this epoch and the last one's accuracies, kept with the run's state."""

    counted: Tensor
    before: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("counted", torch.zeros(2, classes))  # right, seen
        self.register_buffer("before", torch.full((classes,), float("nan")))

    def start_epoch(self) -> None:
        """What was counted becomes the accuracy; counting starts anew. Classes that were not seen have 0."""
        if self.counted[1].any():
            self.before = self.counted[0] / self.counted[1].clamp(min=1)
            self.counted = torch.zeros_like(self.counted)

    @torch.no_grad()
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Count ``logits`` (B, C) against ``labels`` (B,); the last epoch's accuracies (C,), None in the first."""
        right = (logits.argmax(1) == labels).float()
        new = torch.zeros_like(self.counted).index_add_(1, labels, torch.stack([right, torch.ones_like(right)]))
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(new)
        self.counted += new
        return None if self.before.isnan().any() else self.before
