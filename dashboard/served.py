"""The dashboard as a process: for its tests and its benchmark."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
DONE = '[data-testid="stApp"][data-test-script-state="notRunning"]'
"""What a page shows when its script has ended."""


@contextmanager
def served(runs: Path) -> Iterator[str]:
    """The address of a dashboard of ``runs`` that lives as long as the context."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    options = ["--server.port", str(port), "--server.headless", "true"]
    process = subprocess.Popen([sys.executable, "-m", "streamlit", "run", "dashboard/app.py", *options], cwd=ROOT,
                               env={**os.environ, "SAGEKIT_RUNS": str(runs.resolve())},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://localhost:{port}/_stcore/health", process)
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait(health: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError(f"the dashboard ended with code {process.returncode}")
        try:
            urllib.request.urlopen(health, timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the dashboard did not start within a minute")
