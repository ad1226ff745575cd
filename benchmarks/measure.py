"""Measure: studies into docs/results/NAME.csv, each beside the command, commit and date that made it (docs/results/made.json).

    python benchmarks/measure.py NAME... [--runs FOLDER]

A NAME is a key of ``STUDIES`` (mini world; runs in build/results, kept and resumed), ``fig9``, ``inference``, or ``real``,
which reads a finished `sagekit study table7` on CIFAR-100-LT's photographs (its --runs folder). ``results.py`` makes the page
out of the files.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from inference import ratios

from sagekit import Config, UserError, load_data
from sagekit.analyses import density, embeddings
from sagekit.networks.backbone import load_backbone
from sagekit.runs.compare import check_comparable
from sagekit.runs.compare import differences as image_differences
from sagekit.runs.run import Run
from sagekit.studies import fit
from sagekit.studies.choose import chosen
from sagekit.studies.study import bases_of, rows_of
from sagekit.studies.summary import differences, save, wins
from sagekit.studies.sweep import over_seeds, run_points
from sagekit.training.build import load_model
from sagekit.version import VERSION

OUT = Path("docs/results")
MADE = OUT / "made.json"


@dataclass(frozen=True)
class Study:
    """A study of the mini world, with settings of all its rows."""

    study: str
    seeds: int = 5
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """What a user types for it."""
        sets = "".join(f" --set {key}={value}" for key, value in self.changes.items())
        return f"sagekit study {self.study} --seeds {self.seeds}{sets}"


STUDIES = {
    **{name: Study(name) for name in ("table5", "table7", "table9", "table10", "fig7", "fig8", "mismatch", "fit", "choices")},
    "table1": Study("table1"), "on-clip": Study("on_clip"), "foundation": Study("foundation"),
    "text": Study("text", 10), "text-r4": Study("text", 5, {"bottleneck": 4}), "text-draw1": Study("text", 5, {"data_seed": 1}),
}


def study(name: str, runs: Path) -> None:
    """Train what is missing of a study, and write its summary, what validation chose, and what else it is asked for."""
    about = STUDIES[name]
    rows = rows_of(about.study, "mini", about.changes)
    folder = runs / name
    configs = chosen(rows, runs, folder / "choices.csv")
    results = run_points(over_seeds(configs, about.seeds), runs / "points")
    found = save(results, folder, bases_of(about.study, rows))
    failed = results[results["status"] != "finished"].to_dict("records")
    if failed:
        raise UserError(f"{len(failed)} runs of {name} are not finished; the first: {failed[0]['row']}: {failed[0]['error']}")
    write(found.drop(columns="failed"), name)
    if (folder / "choices.csv").exists():
        shutil.copy(folder / "choices.csv", OUT / f"{name}-choices.csv")
    if about.study == "mismatch":
        write(contrast(results), f"{name}-contrast")
    if about.study == "fit":
        write(pd.concat([fit.afterwards(results, row, "learned scalars").assign(row=row)
                         for row in ("learned scalars", "lambda_3 = 0")]), f"{name}-afterwards")
    seconds = results.groupby("row", sort=False)["seconds"].mean()
    note_made(name, about.command, seeds=about.seeds, test_images=Run(results["path"].iloc[0]).metrics["test_images"],
              seconds=[round(seconds.min()), round(seconds.max())])


def contrast(results: pd.DataFrame) -> pd.DataFrame:
    """How much more a row gains over LA where there is a mismatch than where there is none: the gain with it minus the gain
    without it, on the same seeds and test images."""
    paths = {row: part.sort_values("seed")["path"].tolist() for row, part in results.groupby("row", sort=False)}
    lines = []
    for row in paths:
        where, _, loss = str(row).partition(": ")
        if loss == "LA" or not where.endswith("on"):
            continue
        gains, compared = [], []
        for world in (where, where.removesuffix("on") + "off"):
            pairs = [(Run(a), Run(b)) for a, b in zip(paths[f"{world}: LA"], paths[f"{world}: {loss}"], strict=True)]
            labels, gain = wins(pairs, "single")
            gains.append(gain)
            compared += [run for pair in pairs for run in pair]
        check_comparable(compared)
        found = differences(labels, gains[0] - gains[1], pairs[0][0].groups("own"))
        lines.append({"row": row, **{f"{g}_{key}": value for g in ("mean", "tail") for key, value in found.loc[g].items()}})
    return pd.DataFrame(lines)


def figure_9(runs: Path, draws: int = 5) -> None:
    """``density.apart`` of zero-shot, LIFT's and Sage's features over draws of the mini world, each with its own trainings. Of
    the test's own distribution it has 200 more images a class, drawn after all others as validation images are."""
    lines = []
    rows = {method: Config.preset("mini", method) for method in ("lift", "sage")}
    for draw in range(draws):
        configs = {method: config.changed(data_seed=draw) for method, config in rows.items()}
        results = run_points(over_seeds(configs, 1), runs / "points").set_index("row")
        data, net = load_data(configs["sage"].changed(val_per_class=200).data), load_backbone(configs["sage"].network)
        assert data.val is not None
        for name in ("zero-shot", "lift", "sage"):
            run = Run(results.loc["sage" if name == "zero-shot" else name, "path"])
            model = load_model(run, data.class_names, net)
            splits = (data.train, data.test, data.val)
            features = [embeddings.features(model, split, run.config.views, name == "zero-shot").numpy() for split in splits]
            labels = [split.labels.numpy() for split in splits]
            apart = density.apart(features[0], labels[0], features[1], labels[1], features[2], labels[2])
            for part, frame in apart.items():
                rare = frame[frame["images"] < run.config.data.tail_below]["log_ratio"].mean()
                lines.append({"draw": draw, "features": name, "part": part, **density.fit(frame), "tail_log_ratio": rare})
    write(pd.DataFrame(lines), "fig9")
    note_made("fig9", "python benchmarks/measure.py fig9", draws=draws)


def inference(runs: Path) -> None:
    """Seconds of a batch with FIT and without its second pass, LIFT's being 1, on idle cores; ``runs`` is not used."""
    write(pd.concat([ratios(backbone, batch, 7).assign(backbone=backbone)
                     for backbone, batch in (("ViT-B-16-quickgelu", 16), ("mini", 128))]), "inference")
    note_made("inference", "python benchmarks/measure.py inference", threads=torch.get_num_threads())


def real(runs: Path) -> None:
    """Table 7 on the real photographs: the last epoch's numbers with their Wilson intervals, the best epoch on the test images,
    and differences to the row's base."""
    results = pd.read_csv(next(runs.glob("table7-cifar100-lt-100*")) / "results.csv")
    results = results[results["status"] == "finished"]
    by_row = {row: Run(runs / "points" / Path(path).name) for row, path in zip(results["row"], results["path"], strict=True)}
    bases = bases_of("table7", rows_of("table7", "cifar100-lt-100"))
    lines = []
    for row, run in by_row.items():
        history, result = run.history, run.metrics["results"]["single"]
        line: dict[str, object] = {"row": row, "seed": run.config.seed, "epochs": run.config.epochs, "base": bases.get(row, "")}
        cells = {"mean": result["mean"], **result["groups"]["own"]}
        line |= {group + end: 100 * cell[key] for group, cell in cells.items()
                 for end, key in (("", "accuracy"), ("_from", "low"), ("_to", "high"))}
        watched = history["test_accuracy"].fillna(0).to_numpy()
        line |= {"best_epoch": int(history["epoch"].iloc[watched.argmax()]), "best_on_test": 100 * watched.max()}
        if bases.get(row) in by_row:
            frame = image_differences(by_row[bases[row]], run).set_index("group")
            line |= {f"{g}_{key}": frame.loc[g, key] for g in ("mean", "head", "medium", "tail")
                     for key in ("difference", "low", "high", "p_holm")}
        lines.append(line | {"seconds": history["seconds"].sum()})
    write(pd.DataFrame(lines), "real")
    note_made("real", "sagekit study table7 --preset cifar100-lt-100 --set dataset=folder --set data_root=cifar100-png "
              "--set watch=test --seeds 1", seeds=1)


def write(frame: pd.DataFrame, name: str) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    frame.to_csv(OUT / f"{name}.csv", index=False, float_format="%.6g")


def note_made(name: str, command: str, **more: Any) -> None:
    """Keep what made a file."""
    known = json.loads(MADE.read_text(encoding="utf-8")) if MADE.exists() else {}
    known[name] = {"command": command, "commit": commit(), "date": str(date.today()), "version": VERSION, **more}
    MADE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def commit() -> str:
    """The commit of the code; refused where the library differs from it, since the number would name another code."""
    changed = subprocess.run(["git", "status", "--porcelain", "sagekit"], capture_output=True, text=True, check=True).stdout
    if changed:
        raise UserError("sagekit/ differs from its last commit; commit first, so that the numbers can name the code.")
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


OTHERS = {"fig9": figure_9, "inference": inference, "real": real}


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="+", choices=[*STUDIES, *OTHERS])
    parser.add_argument("--runs", type=Path, default=Path("build/results"))
    arguments = parser.parse_args()
    try:
        commit()
        for name in arguments.names:
            OTHERS[name](arguments.runs) if name in OTHERS else study(name, arguments.runs)
    except UserError as error:
        print(f"measure: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
