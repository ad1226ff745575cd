"""Stored logits of a test set: all of them, or with very many classes those that matter.

Up to ``ALL`` classes every logit is kept. With more, an image keeps its ``KEPT`` likeliest classes (by Eq 23) and its true one,
and of the others only

    r = log sum_j exp(z^_j)        over the classes j that are not kept,

so that predictions and confidences stay as they were. A question that may lift another class to the top (another tau, other
scalars) then has an approximate answer: the winner is looked for among what was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

ALL = 1000
KEPT = 128


@dataclass
class Predictions:
    """Logits of N test images, float32 (N, C), up to a constant an image; ``z_v`` and ``z_t`` are None without FIT, ``z_v``
    alone where a folded run has dropped it.

    Where not all classes are stored the logits are (N, K), ``classes`` int (N, K) says of which, and ``rest`` (N,) is r.
    ``files`` str (N,): the images' files, relative to data_root where they lie there; None for images held in memory.
    """

    labels: np.ndarray
    z: np.ndarray
    z_v: np.ndarray | None
    z_t: np.ndarray | None
    s_v: float
    s_t: float
    classes: np.ndarray | None = None
    rest: np.ndarray | None = None
    files: np.ndarray | None = None

    @property
    def logits(self) -> np.ndarray:
        """What the run predicts with, of the stored classes."""
        return self.summed(self.s_v, self.s_t)

    def summed(self, s_v: float, s_t: float) -> np.ndarray:
        """Eq 23 with these scalars, float32, of the stored classes; a part that is not there has nothing to weigh."""
        z = self.z
        for scalar, part in ((s_v, self.z_v), (s_t, self.z_t)):
            z = z if part is None else z + np.float32(scalar) * part
        return z

    def named(self, columns: np.ndarray) -> np.ndarray:
        """The classes (N,) that stand in ``columns`` int (N,)."""
        return columns if self.classes is None else np.take_along_axis(self.classes, columns[:, None], 1)[:, 0].astype(np.int64)

    @property
    def predicted(self) -> np.ndarray:
        """The likeliest class of each image, int (N,)."""
        return self.named(self.logits.argmax(1))

    @property
    def correct(self) -> np.ndarray:
        """Whether each image is classified right, bool (N,)."""
        return self.predicted == self.labels

    @property
    def total(self) -> np.ndarray:
        """log sum_j exp(z^_j) over all C classes, float64 (N,)."""
        total = logsumexp(self.logits.astype(np.float64), axis=1)
        return total if self.rest is None else np.logaddexp(total, self.rest)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, softmax over all C classes, float (N,)."""
        return np.exp(self.logits.max(1) - self.total)

    @property
    def true_columns(self) -> np.ndarray:
        """The column of each image's true class, int (N,)."""
        return self.labels if self.classes is None else (self.classes == self.labels[:, None]).argmax(1)

    @property
    def log_likelihood(self) -> np.ndarray:
        """Log probability of each image's true class, float (N,)."""
        return np.take_along_axis(self.logits, self.true_columns[:, None], 1)[:, 0] - self.total

    @property
    def places(self) -> np.ndarray:
        """How many classes each image's logits put before its true one, int (N,); of equal logits the first column leads.
        Where K classes are stored the largest answer is K - 1, and may then stand for any larger one."""
        z, column = self.logits, self.true_columns[:, None]
        true = np.take_along_axis(z, column, 1)
        return np.asarray(((z > true) | ((z == true) & (np.arange(z.shape[1]) < column))).sum(1))


def reduced(full: Predictions, most: int) -> Predictions:
    """``full`` (N, C) with the ``most`` < C likeliest classes of each image; the true one takes the last place if it is not
    among them."""
    z = full.logits
    rows = np.arange(len(z))
    columns = np.argpartition(-z, most - 1, axis=1)[:, :most]
    least = np.take_along_axis(z, columns, 1).argmin(1)
    missing = (columns != full.labels[:, None]).all(1)
    columns[rows[missing], least[missing]] = full.labels[missing]
    others = z.astype(np.float64)
    np.put_along_axis(others, columns, -np.inf, 1)

    def kept(part: np.ndarray | None) -> np.ndarray | None:
        return None if part is None else np.take_along_axis(part, columns, 1)

    return Predictions(full.labels, np.take_along_axis(full.z, columns, 1), kept(full.z_v), kept(full.z_t), full.s_v, full.s_t,
                       columns.astype(np.int32), logsumexp(others, axis=1))


def joined(parts: Sequence[tuple[np.ndarray, Predictions]]) -> Predictions:
    """One set of predictions out of parts with their images' places, in the order of these."""
    order = np.argsort(np.concatenate([places for places, _ in parts]))
    first = parts[0][1]

    def column(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for _, part in parts]
        return None if values[0] is None else np.concatenate(values)[order]

    labels, z = column("labels"), column("z")
    assert labels is not None
    assert z is not None
    return Predictions(labels, z, column("z_v"), column("z_t"), first.s_v, first.s_t, column("classes"), column("rest"))
