"""One training step at ViT-B/16 (random weights, 224 px): images a second of LIFT, a literal Sage step and ours, in one run.

    python benchmarks/step.py [BATCH] [REPEATS]

The literal step is the paper's text in vectorised form: the guidance repeated for every token, W_proj on every token,
both branches through every token of every block by open_clip's own blocks. "plain" is LIFT in the same way.

Memory is what the forward keeps for the backward pass (bytes of distinct saved tensors that are no parameters); "folded" is
inference of Sage's folded form against an AdaptFormer of the same hidden width.
"""

import sys
import time

import torch
import torch.nn.functional as F

import sagekit as sk
from sagekit.losses.adjusted import criterion, interchange_loss
from sagekit.networks.adapters import SGAdapter
from sagekit.networks.backbone import load_backbone
from sagekit.networks.tuned import Logits, Model
from sagekit.training.train import optimizer_for


def literal_adapter(adapter: SGAdapter, tokens: torch.Tensor, w_bar: torch.Tensor) -> torch.Tensor:
    f_v = adapter.norm(tokens)
    f_t = adapter.norm(w_bar.expand_as(tokens))
    f_vt = adapter.proj(f_t) * f_v
    u = torch.cat([adapter.down_v(f_v), adapter.down_vt(f_vt) + adapter.scale_vt * adapter.down_t(f_t)], -1)
    up = adapter.alpha * F.linear(F.relu(u), adapter.up.weight) + (1 - adapter.alpha) * F.linear(u, adapter.up.weight)
    return adapter.scale * (up + adapter.up.bias)


def literal_forward(model: Model, images: torch.Tensor) -> Logits:
    net, w_bar = model.backbone, model.guidance()
    tokens = net.embed(images)
    for block, adapter in zip(net.blocks, model.adapters, strict=True):
        mid = tokens + block.attention(block.ln_1(tokens))
        tokens = mid + block.mlp(block.ln_2(mid)) + literal_adapter(adapter, mid, w_bar)
    with torch.no_grad():
        frozen = net.pool(net.visual.transformer(net.embed(images)))
    return model.classify(net.pool(tokens), frozen)


def plain_forward(model: Model, images: torch.Tensor) -> Logits:
    net, w_bar = model.backbone, model.guidance()
    tokens = net.embed(images)
    for block, adapter in zip(net.blocks, model.adapters, strict=True):
        mid = tokens + block.attention(block.ln_1(tokens))
        tokens = mid + block.mlp(block.ln_2(mid)) + adapter(mid, w_bar)
    return model.classify(net.pool(tokens), None)


def kept_bytes(model: Model, images: torch.Tensor) -> int:
    parameters, seen = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        logits = model(images)
    del logits
    return sum(seen.values())


def best_of(repeats: int, calls: dict) -> dict[str, float]:
    """Seconds of each call, the best of ``repeats``; interleaved, so that a slow moment meets all alike."""
    best = dict.fromkeys(calls, float("inf"))
    for turn in range(repeats + 1):  # the first round warms up
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def folded(backbone, text: torch.Tensor, images: torch.Tensor, repeats: int) -> None:
    sage = Model(backbone, text, sk.Config.preset("cifar100-lt-100", fit=False)).eval().fold()
    width = sage.adapters[0].down.out_features
    adaptformer = Model(backbone, text, sk.Config.preset("cifar100-lt-100", "lift", bottleneck=width)).eval()

    def inference(model: Model):
        def run() -> None:
            with torch.inference_mode():
                model(images)
        return run

    best = best_of(repeats, {"AdaptFormer": inference(adaptformer), "folded Sage": inference(sage)})
    print(f"\nInference, hidden width {width}: AdaptFormer {len(images) / best['AdaptFormer']:.1f} images/s, folded Sage "
          f"{len(images) / best['folded Sage']:.1f} images/s, {best['AdaptFormer'] / best['folded Sage']:.2f} x")


def step_of(model: Model, config: sk.Config, forward, images: torch.Tensor, labels: torch.Tensor):
    optimizer = optimizer_for(model, config)
    loss = criterion(config, torch.arange(100, 0, -1))

    def step() -> None:
        interchange_loss(forward(images), labels, loss, config)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main(batch: int = 16, repeats: int = 3) -> None:
    base = sk.Config.preset("cifar100-lt-100", pretrained="random")
    backbone = load_backbone(base)
    text = F.normalize(torch.randn(100, backbone.width, generator=torch.Generator().manual_seed(0)), dim=1)
    images, labels = torch.rand(batch, 3, 224, 224), torch.randint(100, (batch,))
    lift_config = sk.Config.preset("cifar100-lt-100", "lift")
    lift, sage = Model(backbone, text, lift_config), Model(backbone, text, base)
    steps = {
        "LIFT": step_of(lift, lift_config, lift, images, labels),
        "LIFT, plain": step_of(lift, lift_config, lambda x: plain_forward(lift, x), images, labels),
        "Sage, literal": step_of(sage, base, lambda x: literal_forward(sage, x), images, labels),
        "Sage, ours": step_of(sage, base, sage, images, labels),
    }
    best = best_of(repeats, steps)
    literal = best["Sage, literal"]
    print(f"ViT-B/16, random weights, 224 px, batch {batch}, float32, CPU, {torch.get_num_threads()} threads, "
          f"best of {repeats}")
    print("| step | images/s | speed against the literal Sage step | time against LIFT |\n| --- | --- | --- | --- |")
    for name, seconds in best.items():
        print(f"| {name} | {batch / seconds:.1f} | {literal / seconds:.2f} x | {seconds / best['LIFT']:.2f} x |")
    checkpointed = Model(backbone, text, base.changed(checkpointing=True))
    models = {"LIFT": lift, "Sage": sage, "Sage, checkpointing": checkpointed}
    kept = {name: kept_bytes(model, images) for name, model in models.items()}
    print("\nKept for the backward pass: " + ", ".join(f"{name} {b / 2**20:.0f} MiB ({b / kept['LIFT']:.2f} x LIFT)"
                                                       for name, b in kept.items()))
    folded(backbone, text, images[:4], 10 * repeats)


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
