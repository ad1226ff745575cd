"""The mini world's learning rates from scratch: a small search on CE, KPS and ProCo without the compensation factor, on another
draw of the data (data_seed 1).

    python benchmarks/search_scratch.py
"""


from common import accuracy_table, train_all

from sagekit.studies.study import candidates, rows_of

RATES = {"CE": (0.005, 0.01, 0.02, 0.05, 0.1), "KPS": (0.002, 0.005, 0.01, 0.02, 0.05), "ProCo": (0.01, 0.02, 0.05, 0.15)}

if __name__ == "__main__":
    rows = {name: candidates(row)[0] for name, row in rows_of("table7", "mini").items()}
    points = {f"{name}, lr {lr:g}": rows[name].changed(lr=lr, data_seed=1) for name, rates in RATES.items() for lr in rates}
    print(accuracy_table(train_all(points, 1), {}))
