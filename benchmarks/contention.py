"""Two runs side by side on two cores against one alone, and one alone against one alone with the thread policy off.

    python benchmarks/contention.py [--spin VALUE ...] [--steps 40] [--repeats 3]

A run is one epoch of LIFT on some images of the mini world, in a process of its own with two OpenMP threads. A thread of
libgomp that has nothing to do spins for a while before it sleeps, and where two runs share the cores it spins in the other's
time. ``--spin`` says how the threads wait, one row each:

    default    no variable is set: what sagekit itself decides
    passive    OMP_WAIT_POLICY=PASSIVE
    NUMBER     GOMP_SPINCOUNT=NUMBER

"off" is always measured beside: GOMP_SPINCOUNT at libgomp's own 300000, so that sagekit finds a choice made and leaves it
alone. The rows take turns, and each number is the best of the repeats; of two runs side by side the later end counts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

CORES = 2
OFF = "300000"
"""libgomp's spin count where nobody names one and its threads are no more than the cores."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Two runs side by side against one alone.")
    parser.add_argument("--spin", nargs="+", default=["default"], help="default, passive, or a spin count")
    parser.add_argument("--steps", type=int, default=40, help="of a run, 64 images each")
    parser.add_argument("--threads", type=int, default=CORES, help="of OpenMP, each run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.work:
        work(said.steps)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    ways = {**{way: way for way in said.spin}, "off": OFF}
    alone, beside = (dict.fromkeys(ways, float("inf")) for _ in range(2))
    with TemporaryDirectory() as cache:
        for _ in range(said.repeats):
            for name, way in ways.items():
                environment = environment_of(way, said.threads, cache)
                alone[name] = min(alone[name], seconds(1, environment, said.steps))
                beside[name] = min(beside[name], seconds(2, environment, said.steps))
    print("| threads wait | one alone, s | two side by side, s | side by side against alone | alone against off |")
    print("| --- " * 5 + "|")
    for name in ways:
        print(f"| {name} | {alone[name]:.1f} | {beside[name]:.1f} | {beside[name] / alone[name]:.2f} x | "
              f"{alone[name] / alone['off']:.2f} x |")


def environment_of(way: str, threads: int, cache: str) -> dict[str, str]:
    """The environment in which threads wait ``way``."""
    own = {"default": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}.get(way, {"GOMP_SPINCOUNT": way})
    inherited = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    here = str(Path(__file__).resolve().parents[1])
    return {**inherited, "PYTHONPATH": here, "OMP_NUM_THREADS": str(threads), "SAGEKIT_CACHE": cache, **own}


def seconds(runs: int, environment: dict[str, str], steps: int) -> float:
    """From a start that all ``runs`` wait for to the end of the last."""
    command = [sys.executable, __file__, "--work", "--steps", str(steps)]
    children = [subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                for _ in range(runs)]
    expect(children, "ready")
    begun = time.perf_counter()
    for child in children:
        assert child.stdin is not None
        print("go", file=child.stdin, flush=True)
    expect(children, "done")
    found = time.perf_counter() - begun
    for child in children:
        child.communicate()
    return found


def expect(children: list[subprocess.Popen[str]], word: str) -> None:
    """Wait until every child has said ``word``."""
    for child in children:
        assert child.stdout is not None
        if child.stdout.readline().strip() != word:
            sys.exit("a run ended early; its error is above")


def work(steps: int) -> None:
    """A run's own process: prepare, say so, and train when told."""
    import sagekit as sk  # before torch: sagekit decides how threads wait

    import torch  # isort: skip

    config = sk.Config.preset("mini", "lift", epochs=1)
    data, backbone = sk.load_data(config.data), sk.load_backbone(config.network)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    data.train = data.train.take(order[: steps * config.stages[0].batch_size])
    data.test = data.test.first_of_each(2)
    sk.build_model(config, data.class_names, backbone)  # class texts are then in the cache
    with TemporaryDirectory() as folder:
        print("ready", flush=True)
        if sys.stdin.readline():  # nothing comes where the parent has ended
            sk.train(config, Path(folder) / "run", data=data, backbone=backbone, show=False)
            print("done", flush=True)


if __name__ == "__main__":
    main()
