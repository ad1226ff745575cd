"""The components of Sage one after the other on the mini world, over seeds: the rows of the paper's Table 5, and two below.

    python benchmarks/components.py [SEEDS]

Prints a Markdown table of top-1 in percent (mean and 95 % t interval over seeds). Runs are kept in build/points.
"""

import sys

from common import accuracy_table, train_all

from sagekit import Config

LIFT = Config.preset("mini", "lift")
ROWS = {
    "zero-shot": Config.preset("mini", "zero-shot"),
    "classifier": Config.preset("mini", "classifier"),
    "LIFT": LIFT,
    "+ SG": LIFT.changed(module="sg"),
    "+ Init": LIFT.changed(module="sg", templates=60),
    "+ CF": LIFT.changed(module="sg", templates=60, compensation=True),
    "+ FIT (Sage)": Config.preset("mini", "sage"),
}
BEFORE = {"classifier": "zero-shot", "LIFT": "zero-shot", "+ SG": "LIFT", "+ Init": "+ SG", "+ CF": "+ Init",
          "+ FIT (Sage)": "+ CF"}

if __name__ == "__main__":
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(accuracy_table(train_all(ROWS, seeds), BEFORE))
