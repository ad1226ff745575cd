"""What the mini world must be: neither hopeless nor solved, and features better than zero-shot.

    python benchmarks/world_gate.py

Prints the mini CLIP's zero-shot accuracy in its own and the downstream domain, and a balanced linear probe of its frozen
features downstream (60 training images a class, multinomial logistic regression).
"""

import time

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

import sagekit as sk
from sagekit.data import world
from sagekit.networks import pretrain


def draw(domain: world.Domain, per_class: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = world.generator(seed)
    labels = torch.arange(len(world.CLASS_NAMES)).repeat(per_class)
    return world.render(world.sample(labels, domain, g), domain, g)[0], labels


@torch.no_grad()
def main() -> None:
    clip = pretrain.load()
    backbone = sk.load_backbone(sk.Config.preset("mini").network)
    test, labels = draw(world.DOWNSTREAM, 50, 1)
    train, train_labels = draw(world.DOWNSTREAM, 60, 2)
    features, train_features = (F.normalize(torch.cat([backbone.features(part) for part in images.split(500)]), dim=1).numpy()
                                for images in (test, train))
    probe = LogisticRegression(C=100, max_iter=500).fit(train_features, train_labels)
    own, own_labels = draw(world.PRETRAIN, 50, 3)
    start = time.perf_counter()
    draw(world.DOWNSTREAM, 100, 4)
    rate = 100 * len(world.CLASS_NAMES) / (time.perf_counter() - start)
    print("| mini world | % |\n| --- | --- |")
    print(f"| zero-shot, pretraining domain | {100 * pretrain.zero_shot(clip, own, own_labels):.1f} |")
    print(f"| zero-shot, downstream | {100 * pretrain.zero_shot(clip, test, labels):.1f} |")
    print(f"| balanced linear probe, downstream | {100 * probe.score(features, labels):.1f} |")
    print(f"\n{len(labels)} test images each. Rendering: {rate:.0f} images/s.")


if __name__ == "__main__":
    main()
