"""What FIT costs at test time: seconds of a batch, LIFT's being 1, in one run (random weights, the test's float32).

    python benchmarks/inference.py [BACKBONE] [BATCH] [REPEATS]

``without z^v``: the same Sage when the pass through the frozen network is left out (s_1 = 0 at test time; ``studies.fit`` has
its accuracy). Folding changes the adapters and not that pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import pandas as pd
import torch
import typer
from common import best_of, made_up, markdown, model_of

import sagekit as sk
from sagekit.methods.sage import Sage
from sagekit.networks.backbone import load_backbone


def ratios(backbone: str, batch: int, repeats: int) -> pd.DataFrame:
    """One row a way of predicting: ``what``, ``ms`` an image, ``to_lift``."""
    changes = {"backbone": backbone, "pretrained": "" if backbone == "mini" else "random"}
    preset = "mini" if backbone == "mini" else "cifar100-lt-100"
    configs = {method: sk.Config.preset(preset, method, **changes) for method in ("lift", "sage")}
    net = load_backbone(configs["lift"].network)
    lift, sage, folded = (model_of(configs[m], net).eval() for m in ("lift", "sage", "sage"))
    assert isinstance(folded, Sage)
    folded.fold()
    images = made_up(batch, net.image_size)[0].views[0]
    zeros = torch.zeros(batch, net.width)

    def call(model: sk.Method, frozen: torch.Tensor | None = None) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode():
                model.head_of(model.features(images, frozen))

        return run

    calls = {"LIFT": call(lift), "Sage with FIT": call(sage), "Sage with FIT, without z^v": call(sage, zeros),
             "Sage with FIT, folded": call(folded), "folded, without z^v": call(folded, zeros)}
    found = best_of(repeats, calls)
    return pd.DataFrame([{"what": name, "ms": 1000 * seconds / batch, "to_lift": seconds / found["LIFT"]}
                         for name, seconds in found.items()])


def main(backbone: Annotated[str, typer.Argument()] = "ViT-B-16-quickgelu", batch: Annotated[int, typer.Argument()] = 16,
         repeats: Annotated[int, typer.Argument()] = 5) -> None:
    """Print the table."""
    print(f"{backbone}, batch {batch}, {torch.get_num_threads()} threads, best of {repeats}\n")
    print(markdown(ratios(backbone, batch, repeats).round(2)))


if __name__ == "__main__":
    typer.run(main)
