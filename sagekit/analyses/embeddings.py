"""Embeddings (Figure 4): features of whole splits, their t-SNE and UMAP pictures, and the train-test gap as a number.

For class i with mean features m_i (training) and q_i (test) of L2-normalised features f:

    gap_i    = 1 - cos(m_i, q_i)                      how far the training images sit from the test images
    spread_i = 1 - mean over its test images of cos(f, q_i)

t-SNE and UMAP keep neighbours and distort distances: read the number, not the picture's gaps.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.batches import evaluation_batches
from ..data.splits import Split
from ..errors import UserError
from ..methods import Method
from ..settings import ViewSettings
from .inside import tuned_of


@torch.no_grad()
def features(model: Method, split: Split, views: ViewSettings, frozen: bool = False) -> Tensor:
    """f (N, d) of every image of ``split`` in the single test view, tuned or ``frozen``, L2-normalised, on the CPU.

    Raises ``UserError`` for ``frozen`` features of a method without a frozen CLIP.
    """
    model.eval()
    parts, device = [], model.counts.device
    for (crop,), _ in evaluation_batches(split, views, model.image_size, device, False, interpolation=model.interpolation):
        if frozen:
            parts.append(tuned_of(model).backbone.features(crop))
        elif model.frozen_backbone() is None or tuned_of(model).bare:
            parts.append(model.features(crop).own)
        else:  # f^zs is not needed beside the tuned feature
            parts.append(model.features(crop, crop.new_zeros(len(crop), tuned_of(model).backbone.width)).own)
    return F.normalize(torch.cat(parts), dim=-1).cpu()


def picture(points: Tensor, method: Literal["tsne", "umap"] = "tsne", seed: int = 0) -> np.ndarray:
    """Places (N, 2) of ``points`` (N, d) on a plane. Raises ``UserError`` for fewer than four points."""
    if len(points) < 4:
        raise UserError(f"{len(points)} points are too few for a picture; give at least 4.")
    data = points.numpy()
    if method == "umap":
        from umap import UMAP  # slow to import

        threads = torch.get_num_threads()
        try:
            return UMAP(n_neighbors=min(15, len(data) - 1), metric="cosine", random_state=seed, n_jobs=1).fit_transform(data)
        finally:
            torch.set_num_threads(threads)  # numba shares torch's OpenMP and sets its number of threads
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(data) - 1) / 3)
    return TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=seed).fit_transform(data)


def gap(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> pd.DataFrame:
    """One row a class that has training and test images: ``label``, ``images`` (training), ``gap`` and ``spread`` (0..2).

    ``train`` (N, d) and ``test`` (M, d) are L2-normalised features.
    """
    rows = []
    for label in torch.unique(test_labels).tolist():
        own, seen = train[train_labels == label], test[test_labels == label]
        if len(own) and len(seen):
            centre = seen.mean(0)
            rows.append({"label": label, "images": len(own),
                         "gap": 1 - F.cosine_similarity(own.mean(0), centre, dim=0).item(),
                         "spread": 1 - F.cosine_similarity(seen, centre[None]).mean().item()})
    return pd.DataFrame(rows)


def gap_change(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """What ``gap`` said of two models for the same images, one row a class: ``label``, ``before``, ``after`` and ``change``."""
    joined = before.set_index("label")[["gap"]].join(after.set_index("label")["gap"], rsuffix="_after").reset_index()
    joined.columns = ["label", "before", "after"]
    return joined.assign(change=joined["after"] - joined["before"])
