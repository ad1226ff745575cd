"""What training may change in a network, by name: the content of ``weights.safetensors`` and of a run's state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import UserError


class Trained(nn.Module):
    """A network some of whose parameters, those of ``frozen``, are never trained and never written."""

    def __init__(self, frozen: nn.Module | None) -> None:
        super().__init__()
        self._frozen = frozenset() if frozen is None else frozenset(map(id, frozen.parameters()))

    def trained(self) -> dict[str, Tensor]:
        """Every parameter and kept buffer but the frozen ones."""
        kept, every = self.state_dict().keys(), (*self.named_parameters(), *self.named_buffers())
        return {name: t for name, t in every if name in kept and id(t) not in self._frozen}

    def parameter_counts(self) -> dict[str, int]:
        """Trained parameters by part: by what their names start with."""
        counts: dict[str, int] = {}
        for name, t in self.trained().items():
            if isinstance(t, nn.Parameter):
                part = name.partition(".")[0]
                counts[part] = counts.get(part, 0) + t.numel()
        return counts

    def load_trained(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Fill in what ``trained`` gave. Raises ``UserError`` when names or shapes differ."""
        own = self.trained()
        if own.keys() != tensors.keys():
            odd = sorted(own.keys() ^ tensors.keys())[0]
            raise UserError(f"{source} was trained with other settings: '{odd}' is on one side only.")
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise UserError(f"{source}: '{name}' has shape {tuple(tensors[name].shape)}, this model needs "
                                f"{tuple(tensor.shape)}. Check backbone, bottleneck and the number of classes.")
            with torch.no_grad():
                tensor.copy_(tensors[name])
