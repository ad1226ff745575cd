"""How often the kit's intervals hold the truth, and how often its p-values cry wolf: made-up experiments, where it is known.

    python benchmarks/intervals.py [REPEATS]

Prints the tables of docs/statistics.md. Two classifiers differ on a fifth of the images (or more, where the difference is
larger); in seed s the second wins by

    E D[s, i] = effect + e_s,   e_s ~ N(0, sigma^2),   corr(D[s, i], D[t, i]) = 0.28 for e = 0

as LIFT and Sage share their images in the mini world. ``spread`` is sigma in units of the images' standard error of one seed,
sqrt(0.2 / N): 0 for seeds that differ by their images alone, 2 for seeds that differ more than images do.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
from common import markdown

from sagekit.runs.compare import t_half_width
from sagekit.runs.metrics import interval, over_classes
from sagekit.runs.paired import crossed, holm, p_value

IMAGES, DRAWS, SHARE = 300, 300, 0.28
SIZES = np.array([150, 75, 38, 22, 10, 5])
"""Test images of the classes of an unbalanced set of IMAGES."""


def even(images: int) -> np.ndarray:
    return np.full(images, 1 / images)


def unequal(sizes: np.ndarray = SIZES) -> np.ndarray:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return over_classes(labels, labels)


def wins(rng: np.random.Generator, seeds: int, spread: float, effect: float = 0.0, images: int = IMAGES) -> np.ndarray:
    """D (seeds, images)."""
    common = rng.choice([-1, 0, 1], images, p=[0.1 - effect / 2, 0.8, 0.1 + effect / 2])
    moved = effect + rng.normal(0, spread * np.sqrt(0.2 / images) / (1 - np.sqrt(SHARE)), (seeds, 1))
    both = np.maximum(0.1, np.abs(moved) / 2)
    won, lost = both + moved / 2, both - moved / 2
    drawn = rng.random((seeds, images))
    own = np.where(drawn < won, 1, np.where(drawn > 1 - lost, -1, 0))
    return np.where(rng.random((seeds, images)) < np.sqrt(SHARE), common, own)


# --- the share of intervals that hold the truth ---------------------------------------------------------------------------


def wilson(sizes: np.ndarray, truth: np.ndarray, repeats: int) -> float:
    """Of the mean over classes with ``sizes`` (C,) test images and true accuracies ``truth`` (C,)."""
    rng, of_images, weights = np.random.default_rng(0), np.repeat(truth, sizes), unequal(sizes)
    cells = (interval(rng.random(len(of_images)) < of_images, weights) for _ in range(repeats))
    return float(np.mean([cell["low"] <= truth.mean() <= cell["high"] for cell in cells]))


def difference(seeds: int, spread: float, weights: np.ndarray, repeats: int, effect: float = 0.03) -> float:
    """Of the crossed bootstrap; with one seed that of the images alone."""
    rng = np.random.default_rng(1)
    ends = [crossed(wins(rng, seeds, spread, effect, len(weights)), DRAWS, seed, weights)[:2] for seed in range(repeats)]
    return float(np.mean([low <= effect <= high for low, high in ends]))


def of_seeds(seeds: int, spread: float, other_images: bool, repeats: int) -> float:
    """Of the t interval over seeds: for the mean on these images, or on all that they are drawn from."""
    rng = np.random.default_rng(3)
    images = rng.normal(size=(repeats, 1)) * np.sqrt(SHARE)  # the part that all seeds share
    values = images + rng.normal(size=(repeats, seeds)) * np.sqrt(1 - SHARE + spread**2)
    truth = np.zeros((repeats, 1)) if other_images else images
    return float(np.mean([abs(v.mean() - t[0]) <= t_half_width(v) for v, t in zip(values, truth, strict=True)]))


# --- the share of p-values below 0.05 where nothing differs ---------------------------------------------------------------


def false_alarms(weights: np.ndarray, repeats: int) -> float:
    """Of one seed's p: exact McNemar for equal ``weights``, random signs for others."""
    rng = np.random.default_rng(4)
    return float(np.mean([p_value(wins(rng, 1, 0, 0, len(weights))[0], weights, s)[0] < 0.05 for s in range(repeats)]))


def false_alarms_over_seeds(seeds: int, spread: float, repeats: int) -> float:
    """Of the crossed bootstrap's p."""
    rng = np.random.default_rng(5)
    return float(np.mean([crossed(wins(rng, seeds, spread), DRAWS, s)[2] < 0.05 for s in range(repeats)]))


def families(rows: int, repeats: int, corrected: bool = True) -> float:
    """The share of tables of ``rows`` comparisons with one p below 0.05 or more, after Holm's correction or before."""
    rng = np.random.default_rng(6)
    tables = (np.array([p_value(wins(rng, 1, 0)[0], even(IMAGES))[0] for _ in range(rows)]) for _ in range(repeats))
    return float(np.mean([(holm(p) if corrected else p).min() < 0.05 for p in tables]))


def others(repeats: int) -> dict[str, list[float]]:
    """Of all intervals but those over seeds and images."""
    one, many, three = np.array([300]), np.full(50, 50), np.array([60, 20, 4])
    rates = ([0.9, 0.5, 0.3], [0.3, 0.5, 0.9], [0.9, 0.9, 0.5])
    return {"Wilson: 300 images at 70 % / 10 at 90 %": [wilson(one, np.array([0.7]), repeats),
                                                        wilson(one // 30, np.array([0.9]), repeats)],
            "Wilson: mean over 50 classes of 50 images, at 15 to 95 %": [wilson(many, np.linspace(0.15, 0.95, 50), repeats)],
            "Wilson: mean over classes of 60, 20 and 4 images, at 90, 50, 30 % / 30, 50, 90 % / 90, 90, 50 %":
                [wilson(three, np.array(rate), repeats) for rate in rates],
            "paired, one seed, 50 / 300 / 2,400 images": [difference(1, 0, even(n), repeats) for n in (50, 300, 2400)],
            "paired, mean over classes of 150 to 5 images, one seed / crossed, 5 seeds, spread 1":
                [difference(1, 0, unequal(), repeats), difference(5, 1, unequal(), repeats)],
            "t over 3 / 5 / 10 seeds, spread 1, of the mean on these images":
                [of_seeds(s, 1, False, repeats) for s in (3, 5, 10)],
            "the same, taken for the mean on all images": [of_seeds(s, 1, True, repeats) for s in (3, 5, 10)]}


def alarms(repeats: int) -> dict[str, list[float]]:
    """Of all p-values."""
    return {"exact McNemar, 50 / 300 images": [false_alarms(even(n), repeats) for n in (50, 300)],
            "random signs, classes of 150 to 5 images": [false_alarms(unequal(), repeats)],
            **{f"crossed, 3 / 5 / 10 seeds, spread {x}": [false_alarms_over_seeds(s, x, repeats) for s in (3, 5, 10)]
               for x in (0, 2)},
            "one or more of a table's ten, as they are / by Holm":
                [families(10, repeats // 4, corrected) for corrected in (False, True)]}


def percent(shares: dict[str, list[float]], first: str, second: str) -> str:
    cells = [" / ".join(f"{100 * share:.1f}" for share in row) for row in shares.values()]
    return markdown(pd.DataFrame({first: list(shares), second: cells}))


def over_seeds(repeats: int) -> str:
    """Of the crossed bootstrap by seeds and their spread."""
    rows = [{"crossed, holds the truth, %": f"{seeds} seeds", **{
        f"spread {x}": f"{100 * difference(seeds, x, even(IMAGES), repeats):.1f}" for x in (0, 1, 2, 4)}}
        for seeds in (2, 3, 5, 10)]
    return markdown(pd.DataFrame(rows))


def main(repeats: int) -> None:
    print(percent(others(repeats), "95 % interval", "holds the truth, %"), over_seeds(repeats),
          percent(alarms(repeats), "p where nothing differs", "below 0.05, %"), sep="\n\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
