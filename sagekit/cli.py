"""The command line: a thin face over the library.

Exit codes: 0 done, 1 a failure of ours (with its traceback), 2 a user's mistake (one line).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from . import methods as all_methods
from .config import PRESETS, WHERE, Config, parse_assignments
from .errors import UserError, nearest
from .studies.study import STUDIES
from .tables import (
    console,
    plain_grid,
    print_differences,
    print_measures,
    print_record,
    print_report,
    print_rows,
    print_runs,
    print_summary,
)

if TYPE_CHECKING:
    from .settings import DataSettings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="sagekit: fine-tune a CLIP on long-tailed data, and see what each part of the method does.")
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; may be repeated.")]
RunsFolder = Annotated[Path, typer.Option("--runs", envvar="SAGEKIT_RUNS", help="Folder of the runs.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of the data set.")]
Weights = Annotated[Path | None, typer.Option(help="Local weight file of the backbone.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")]
MethodName = Annotated[str, typer.Option(help=f"One of {', '.join(all_methods.names())}; see `sagekit methods`.")]
SHOWN = 10
"""Rows that ``predict`` prints where they go to no file."""
FIGURES = [name for name in STUDIES if name.startswith("fig")]
ROWS = [name for name in STUDIES if name not in FIGURES]


def _changes(sets: list[str] | None, **options: Any) -> dict[str, Any]:
    """Settings of ``--set`` and of options of their own, which may not disagree."""
    changes = parse_assignments(sets or [])
    for key, value in options.items():
        if value is None:
            continue
        if key in changes and str(changes[key]) != str(value):
            raise UserError(f"--{key.replace('_', '-')} {value} and --set {key}={changes[key]} disagree; leave one out.")
        changes[key] = value
    return changes


@app.command()
def demo(
    runs: RunsFolder = Path("runs"),
    seed: Annotated[int | None, typer.Option(help="Seed of the three runs; default: 0.")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="Only print the table; open no dashboard.")] = False,
    sets: Sets = None,
) -> None:
    """Train zero-shot, LIFT and Sage on the embedded mini world, print mean / head / medium / tail, and open the dashboard."""
    from .studies.demo import demo_runs

    finished = list(demo_runs(runs, **_changes(sets, seed=seed)).values())
    print_runs(finished, "single", "own")
    if not headless:
        console.print(f"Runs are in {runs}/; `sagekit compare {finished[1].path} {finished[2].path}` tests the difference.")
        _open_dashboard(runs)


def _open_dashboard(runs: Path) -> None:
    """Run it until Ctrl+C where someone sits at a terminal; say how to open it otherwise."""
    root = Path(__file__).resolve().parents[1]
    script = root / "dashboard" / "app.py"
    if not script.is_file() or find_spec("streamlit") is None:
        return
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--", "--runs", str(runs.resolve())]
    if sys.stdout.isatty():
        subprocess.run(command, cwd=root, check=False)  # its settings lie there
    else:
        console.print(f"The dashboard: streamlit run dashboard/app.py -- --runs {runs}")


@app.command("data")
def data_command(
    place: Annotated[str, typer.Argument(help="A folder of images, an image list, or a preset's name.")],
    data_root: DataRoot = None,
    plot: Annotated[Path | None, typer.Option(help="Write the long-tail curve as a page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, every class and file.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
    sets: Sets = None,
) -> None:
    """Look at data before training: what is understood, every file opened. Exit code 2 where training would refuse."""
    import json

    from .data.check import look

    settings = _data_settings(place, data_root, sets)
    report = look(settings, workers, show=sys.stderr.isatty())
    if as_json:
        print(json.dumps(report.plain(), indent=1, ensure_ascii=False))
    else:
        print_report(report)
    if plot is not None and (data := report.data) is not None:
        from . import plots

        plots.profile(data.class_counts, data.groups["own"], f"{data.name}: training images by class").write_html(plot)
        console.print(f"The long-tail curve: {plot}", markup=False)
    if report.refusal:
        raise UserError(f"training would refuse: {report.refusal}")


def _data_settings(place: str, data_root: Path | None, sets: list[str] | None) -> DataSettings:
    """The data at a place: a preset's, or those of a folder or a list, with ``sets`` on top."""
    path = Path(place)
    changes = _changes(sets, data_root=data_root)
    if place in PRESETS and not path.exists():
        return Config.preset(place, **changes).data
    if path.is_dir():
        return Config.preset("folder", **{"data_root": path, **changes}).data
    if path.is_file():
        root = data_root or path.parent
        others = {f"{split}_list": path.name.replace("train", split) for split in ("val", "test")
                  if "train" in path.name and (path.parent / path.name.replace("train", split)).is_file()}
        lists = {key: str((path.parent / name).resolve()) for key, name in {"train_list": path.name, **others}.items()}
        return Config.preset("list", **{"data_root": root, **lists, **changes}).data
    raise UserError(f"there is no folder, list or preset '{place}'.{nearest(place, PRESETS)}")


@app.command()
def train(
    out: Annotated[Path | None, typer.Option(help="Run folder; default: RUNS/PRESET-METHOD-SEED.")] = None,
    preset: Annotated[str, typer.Option(help="See `sagekit presets`.")] = "mini",
    method: MethodName = "sage",
    seed: Annotated[int | None, typer.Option(help="Random start, order and views; default: 0.")] = None,
    data_root: DataRoot = None,
    weights: Weights = None,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    runs: RunsFolder = Path("runs"),
    sets: Sets = None,
) -> None:
    """Train one run and measure it. `accelerate launch -m sagekit train ...` uses many devices."""
    from . import train as train_run

    changes = _changes(sets, seed=seed, data_root=data_root, weights=weights, device=device)
    config = Config.preset(preset, method, **changes)
    run = train_run(config, out or runs / f"{preset}-{method}-{config.seed}", resume=resume)
    if _is_main_process():
        print_runs([run], "single", "own")


@app.command()
def evaluate(
    run: RunPath,
    ensembling: Annotated[bool, typer.Option("--ensembling", help="Also average the run's crops (default: five).")] = False,
    ensemble: Annotated[str | None, typer.Option(help="Also average five_crops, ten_crops or random_crops.")] = None,
    folded: Annotated[bool, typer.Option("--folded", help="Use the folded adapters that `sagekit fold` wrote.")] = False,
    split: Annotated[str, typer.Option(help="test, val, train, or an image list 'path label' in the run's classes.")] = "test",
    name: Annotated[str | None, typer.Option(help="Of the record; default: the split's, or the list's without suffix.")] = None,
    data_root: DataRoot = None,
    weights: Weights = None,
    device: Device = None,
    sets: Sets = None,
) -> None:
    """Measure a finished run on a set of images, on this machine's data; each set has a record of its own."""
    from . import Run
    from . import evaluate as evaluate_run
    from .training.evaluate import check_changes

    opened = Run(run)
    changes = _changes(sets, data_root=data_root, weights=weights, device=device)
    check_changes(changes)
    found = evaluate_run(opened, ensembling=ensembling or None, folded=folded, split=split, name=name,
                         ensemble=ensemble, **changes)
    if not _is_main_process():
        return
    for view in found["results"]:
        if found["split"] == "test":
            print_runs([opened], view, "own")
        else:
            print_record(opened, found, view)


@app.command()
def predict(
    run: RunPath,
    images: Annotated[Path | None, typer.Argument(help="A folder (any depth), an image, or a .txt list of paths.")] = None,
    split: Annotated[str | None, typer.Option(help="The run's own images in their place: test, val or train.")] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file, a row an image; default: the first rows are shown.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Likeliest classes of each image.")] = 5,
    embeddings: Annotated[Path | None, typer.Option(help="Also an .npz file of the tuned features (N, d) and files.")] = None,
    data_root: DataRoot = None,
    weights: Weights = None,
    device: Device = None,
) -> None:
    """Name the classes of any images, one row an image: file, class, probability, and runners-up."""
    from .training import predict as using

    if embeddings is not None and embeddings.suffix != ".npz":
        raise UserError(f"--embeddings {embeddings} must be a name that ends in .npz.")
    changes = _changes(None, data_root=data_root, weights=weights, device=device)
    parts = using.predict(run, images, split, top, **changes)
    if out is None and embeddings is None:
        parts = islice(parts, 1)
    first, count, bad = using.save(parts, out, embeddings)
    if out is None:
        print_rows(first.head(SHOWN))
        console.print(f"The first {min(SHOWN, len(first))} images; --out FILE.csv writes a row for each.", soft_wrap=True)
    else:
        console.print(f"{out}: {count:,} rows, a row an image.", soft_wrap=True)
    if embeddings is not None:
        console.print(f"{embeddings}: features float32 ({count - bad:,}, d) and files.", soft_wrap=True)
    if bad:
        console.print(f"{bad:,} of {count:,} files could not be read; the column 'error' says why.")


@app.command()
def compare(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders; default: all runs.")] = None,
    runs: RunsFolder = Path("runs"),
    groups: Annotated[str, typer.Option(help="own: by the data's counts; beta100: LIFT's CIFAR groups; thirds.")] = "own",
    view: Annotated[str, typer.Option(help="single, five_crops, ten_crops or random_crops.")] = "single",
    measures: Annotated[bool, typer.Option("--measures", help="Also top-5, macro-F1, calibration and other measures.")] = False,
) -> None:
    """Compare runs by mean / head / medium / tail, and each with the first on the same images."""
    from .runs.compare import check_comparable, differences
    from .runs.run import Run, find_runs

    chosen = [Run(path) for path in paths] if paths else [run for run in find_runs(runs) if run.finished]
    if not chosen:
        raise UserError(f"there are no finished runs in {runs}; `sagekit demo` makes three.")
    check_comparable(chosen)
    print_runs(chosen, view, groups)
    if measures:
        print_measures(chosen, view, groups)
    for other in chosen[1:]:
        print_differences(chosen[0], other, differences(chosen[0], other, view, groups))
    if len(chosen) > 2:
        console.print(f"{len(chosen) - 1} tables: Holm's correction is within each, not across them.")


@app.command()
def fold(
    run: RunPath,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write folded.onnx (needs onnx and onnxscript).")] = False,
    without_frozen: Annotated[bool, typer.Option(
        "--without-frozen", help="Also drop FIT's second pass, where that costs nothing on the validation images.")] = False,
) -> None:
    """Write a Sage run's exact small form (finding 4): the same outputs, a fraction of the parameters."""
    from .training.export import export_onnx
    from .training.fold import fold_run

    result = fold_run(run, without_frozen)
    if result.kept is not None and result.dropped is not None:
        console.print(f"Validation images, mean over classes: {100 * result.kept:.2f} % with z^v, {100 * result.dropped:.2f} % "
                      "without. It is dropped, and with it the second pass.", soft_wrap=True)
    console.print(f"{run / 'folded.safetensors'}: {result.before:,} adapter parameters folded to {result.after:,}; largest "
                  f"difference of a logit on {result.images} test images: {result.difference:.1e}.")
    if onnx:
        _say_onnx(export_onnx(run, folded=True))


@app.command()
def export(
    run: RunPath,
    peft: Annotated[bool, typer.Option("--peft", help="Instead, a LoRA run's products for the PEFT library.")] = False,
) -> None:
    """Write a run's network as model.onnx, for ONNX Runtime (needs onnx and onnxscript); class names in its metadata."""
    if peft:
        from .training.peft import export_peft

        folder = export_peft(run)
        console.print(f"{folder}: for PEFT on Hugging Face's CLIPModel; the classifier stays in the run.", soft_wrap=True)
        return
    from .training.export import export_onnx

    _say_onnx(export_onnx(run))


def _say_onnx(file: Path) -> None:
    console.print(f"{file}: images float32 (B, 3, S, S), RGB in 0..1, in; logits (B, C) out.", soft_wrap=True)


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Weight file; its card goes beside it.")] = Path("mini.safetensors"),
    steps: Annotated[int, typer.Option(min=1, help="Batches of 256 images.")] = 9000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a pretraining that was stopped.")] = False,
) -> None:
    """Pretrain a mini CLIP on captions of the mini world (use it with --weights)."""
    from .networks.pretrain import pretrain as pretrain_mini

    card = pretrain_mini(out, steps, seed, resume)
    console.print(f"{out}: zero-shot {100 * float(str(card['zero_shot_pretraining_domain'])):.1f} % on its own domain "
                  f"({card['zero_shot_images']} images of the mini world), {card['seconds']} s.")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method: equations, settings, published numbers.")] = None,
) -> None:
    """List the methods, or show one."""
    from .methods._about import card, listing

    if name is not None:
        console.print(card(name), markup=False, soft_wrap=True)
        return
    frame = listing()
    grid = plain_grid(*frame.columns)
    for row in frame.itertuples(index=False):
        grid.add_row(*map(escape, row))
    console.print(grid)


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Show every setting of one preset.")] = None,
    method: MethodName = "sage",
) -> None:
    """List the presets, or all settings of one."""
    from .config import PARTS
    from .methods._about import setting_lines

    if name is not None:
        config = Config.preset(name, method)
        for part in (*PARTS, "settings"):
            held = getattr(config, part)
            lines = [f"{method}'s own" if part == "settings" else part, *setting_lines(type(held), dict(held))]
            console.print("\n    ".join(lines), markup=False, soft_wrap=True)
        return
    keys = ("epochs", "alpha", "mu", "gamma", "lambda_1", "lambda_2", "lambda_3")
    grid = plain_grid("preset", *keys)
    for preset in PRESETS:
        values = Config.preset(preset).flat
        grid.add_row(preset, *(str(values[key]) for key in keys))
    console.print(grid)


@app.command()
def sweep(
    spec: Annotated[str, typer.Argument(help=f"{', '.join(FIGURES)}, or a YAML file with 'grid:' (docs/studies.md).")],
    preset: Annotated[str, typer.Option(help=f"Of {' and '.join(FIGURES)}; a file names its own.")] = "mini",
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs a point; default: 3, or the file's own.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
    backend: Annotated[str, typer.Option(help="joblib's: loky; dask or ray where installed.")] = "loky",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try points again that failed.")] = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Train every point of a sweep that is not trained yet, and summarise it over seeds."""
    from .studies.sweep import read_grid

    how = {"workers": workers, "backend": backend, "retry_failed": retry_failed}
    if not spec.endswith((".yaml", ".yml")):
        _study(spec, preset, {}, seeds or 3, runs, how)
        return
    rows, file_seeds = read_grid(Path(spec))
    _train_many(Path(spec).stem, rows, None, seeds or file_seeds, runs, how)


@app.command()
def study(
    spec: Annotated[str, typer.Argument(help=f"One of {', '.join(ROWS)}.")],
    preset: Annotated[str, typer.Option(help="See `sagekit presets`.")] = "mini",
    sets: Sets = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs a row.")] = 5,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
    backend: Annotated[str, typer.Option(help="joblib's: loky; dask or ray where installed.")] = "loky",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try rows again that failed.")] = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Train the rows of a study over seeds (what validation chooses first), and compare them in pairs with their bases."""
    _study(spec, preset, _changes(sets), seeds, runs, {"workers": workers, "backend": backend, "retry_failed": retry_failed})


def _study(spec: str, preset: str, changes: dict[str, Any], seeds: int, runs: Path, how: dict[str, Any]) -> None:
    """``changes`` are settings of all rows that have them, and stand in the folder's name."""
    from .studies.choose import chosen
    from .studies.study import bases_of, rows_of

    rows = rows_of(spec, preset, changes)
    said = [f"{key}={str(value).replace('/', '-')}" for key, value in changes.items() if key not in WHERE]
    name = "-".join([spec, preset, *said])
    _train_many(name, chosen(rows, runs, runs / name / "choices.csv", **how), bases_of(spec, rows), seeds, runs, how)


def _train_many(name: str, rows: Mapping[str, Config], bases: Mapping[str, str] | None, seeds: int, runs: Path,
                how: dict[str, Any]) -> None:
    """Points live together in RUNS/points, so that sweeps share them; a study's own folder holds its tables."""
    from .studies.summary import save
    from .studies.sweep import best_line, over_seeds, run_points

    frame = run_points(over_seeds(dict(rows), seeds), runs / "points", **how)
    summary = save(frame, runs / name, bases)
    if (frame["status"] == "finished").any():
        print_summary(name, summary, bool(frame["balanced"].dropna().all()), mini="mini world" in set(frame["data"]))
    failed = frame[frame["status"] == "failed"]
    for row in failed.to_dict("records"):
        console.print(f"failed: {row['row']}, seed {row['seed']}: {row['error']}", markup=False)
    console.print(f"{runs / name}/results.csv has a row a run, summary.csv a row a point.")
    if (frame["status"] == "finished").any():
        console.print(best_line(frame), markup=False, soft_wrap=True)
    if len(failed):
        raise typer.Exit(1)


def _is_main_process() -> bool:
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        code = app(arguments, standalone_mode=False)
    except UserError as error:
        _stop(str(error))
    except (KeyboardInterrupt, typer.Abort):
        print("sagekit: stopped; the same command continues (train and pretrain: with --resume).", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if not hasattr(error, "format_message"):  # not a usage error of click, which newer typers bring inside them
            raise
        _stop(error.format_message())
    raise SystemExit(code if isinstance(code, int) else 0)


def _stop(message: str) -> None:
    print(f"sagekit: {message}", file=sys.stderr)
    raise SystemExit(2)
