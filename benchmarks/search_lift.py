"""The mini preset's learning rate: a small search on LIFT alone, on another draw of the data (data_seed 1).

    python benchmarks/search_lift.py
"""


from common import accuracy_table, train_all

from sagekit import Config

LIFT = Config.preset("mini", "lift", data_seed=1)
RATES = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)

if __name__ == "__main__":
    rows = {f"lr {lr:g}": LIFT.changed(lr=lr) for lr in RATES}
    print(accuracy_table(train_all(rows, 2), {}))
