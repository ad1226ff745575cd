"""The choices that the paper leaves open, compared on the mini world over seeds: Sage with one setting changed at a time.

    python benchmarks/open_choices.py [SEEDS]
"""

import sys

from common import accuracy_table, train_all

from sagekit import Config

SAGE = Config.preset("mini", "sage", gate_init="zero", guidance_grad=True, fit_init=0.5)
ROWS = {
    "zero, gradient, 0.5": SAGE,
    "W_proj = identity": SAGE.changed(gate_init="identity"),
    "W_proj kaiming": SAGE.changed(gate_init="kaiming"),
    "w_bar detached": SAGE.changed(guidance_grad=False),
    "s = 0": SAGE.changed(fit_init=0.0),
    "s = 1": SAGE.changed(fit_init=1.0),
    "gate as a vector": SAGE.changed(gate="vector"),
}

if __name__ == "__main__":
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    runs = train_all(ROWS, seeds)
    print(accuracy_table(runs, dict.fromkeys(list(ROWS)[1:], "zero, gradient, 0.5")))
