"""The mini preset's learning rate from scratch: a small search on CE alone, on another draw of the data (data_seed 1).

    python benchmarks/search_scratch.py
"""


from common import accuracy_table, train_all

from sagekit import Config

CE = Config.preset("mini", "scratch", data_seed=1)
RATES = (0.005, 0.01, 0.02, 0.05, 0.1)

if __name__ == "__main__":
    rows = {f"lr {lr:g}": CE.changed(lr=lr) for lr in RATES}
    print(accuracy_table(train_all(rows, 2), {}))
