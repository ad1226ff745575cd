"""A training as it goes: curves, what it will cost, the log's end, and how to stop and continue it."""

import time

import shared
import streamlit as st

from sagekit import plots
from sagekit.runs.run import Run

CURVES = (("Loss", ("loss",), "mean of the epoch"), ("Accuracy on training images", ("train_accuracy",), "0..1"),
          ("Accuracy on watched images", ("val_accuracy", "test_accuracy"), "mean over classes, 0..1"),
          ("FIT's scalars", ("s_v", "s_t"), "value"), ("Learning rate", ("lr",), "rate"))
SILENT = 600  # seconds without a sign of life after which a run counts as stopped


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@shared.errors_shown()
def _show(name: str, running: bool) -> None:
    run = Run(shared.folder() / name)  # not the cached one: the files change
    if running and run.finished:
        st.rerun()
    config, history, done = run.config, run.history, len(run.history)
    columns = st.columns(4)
    columns[0].metric("Epochs", f"{done} of {config.epochs}", border=True)
    columns[1].metric("Images a second", f"{history['images_per_second'].iloc[-1]:,.0f}" if done else "-", border=True)
    columns[2].metric("An epoch", _span(history["seconds"].mean()) if done else "-", border=True)
    left = "finished" if run.finished else _span(run.seconds_left) if done else "after the first epoch"
    columns[3].metric("Time left, without the test", left, border=True)
    if not run.finished:
        _hint(run)
    known = [(title, [c for c in wanted if c in history], y) for title, wanted, y in CURVES]
    known = [curve for curve in known if curve[1] and done]
    for pair in (known[:2], known[2:4], known[4:]):
        for column, (title, shown, y) in zip(st.columns(2), pair, strict=False):
            with column:
                shared.figure(plots.training(history, shown, title, y), f"training-{shown[0]}", history)
    if not done:
        st.caption("No epoch is done yet.")
    log = run.path / "log.txt"
    if log.is_file():
        st.markdown("**The log's end**")
        st.code("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]), language=None)


def _hint(run: Run) -> None:
    files = [run.path / name for name in ("log.txt", "history.csv", "state.pt", "config.yaml")]
    quiet = time.time() - max(file.stat().st_mtime for file in files if file.is_file())
    expected = max(SILENT, 3 * (run.history["seconds"].max() if len(run.history) else 0))
    if quiet > expected:
        st.warning(f"No sign of life for {_span(quiet)}: it was probably stopped. It continues to the same result with")
    else:
        st.caption(f"Last sign of life {_span(quiet)} ago. Ctrl+C where it runs stops it; it continues to the same result with")
    st.code(run.config.command(run.path), language="bash")
    error = run.path / "error.txt"
    if error.is_file():
        st.warning(f"It failed: {error.read_text(encoding='utf-8', errors='replace').strip()}")


st.title("Training")
lines = shared.lines()
usable = lines[lines["status"] != "broken"] if len(lines) else lines
if not len(usable):
    st.info("There is no run in this folder. `sagekit train --out runs/mine` starts one.")
    st.stop()
ordered = usable.sort_values(["status", "changed"], ascending=[False, False], kind="stable")
status = dict(zip(ordered["run"], ordered["status"], strict=True))
name = st.selectbox("Run", list(status), key="run", **shared.LINK)
running = status[name] == "unfinished"
st.fragment(_show, run_every="2s" if running else None)(name, running)
