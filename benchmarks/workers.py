"""Does a sweep gain by workers? The same four LIFT runs with one worker that has all cores, and with one worker a core.

    python benchmarks/workers.py

Interleaved in one run, twice each; the ratio is of the better times.
"""

import tempfile
import time
from pathlib import Path

from joblib import cpu_count

from sagekit import Config
from sagekit.studies.sweep import over_seeds, run_points

POINTS = over_seeds({"LIFT": Config.preset("mini", "lift", epochs=2)}, 4)


def seconds(workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        run_points(POINTS, Path(folder), workers=workers, show=False)
        return time.monotonic() - start


if __name__ == "__main__":
    cores = cpu_count()
    times: dict[int, list[float]] = {1: [], cores: []}
    for _ in range(2):
        for workers in times:
            times[workers].append(seconds(workers))
    one, many = (min(times[w]) for w in (1, cores))
    print(f"{len(POINTS)} runs: 1 worker {one:.0f} s, {cores} workers {many:.0f} s, {one / many:.2f} x")
