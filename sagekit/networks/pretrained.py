"""What open_clip knows of published weights by their tag, and where their files are.

A tag (``openai``, ``laion2b_s34b_b88k``, ...) says what the weights themselves do not: mean and std of the pixels, how images
were resized, and which GELU the model was trained with. ``--set weights=FILE --set pretrained=TAG`` says it of a local file.

A file that open_clip or Hugging Face's library keeps on this machine is taken without asking the network. Otherwise one short
question tells whether there is a network at all: their own retries take a minute.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError

PATIENCE = 4
"""Seconds until the network counts as missing."""


def look(name: str, tag: str) -> dict[str, Any]:
    """open_clip's record of ``tag`` for the model ``name``: ``mean``, ``std``, ``interpolation``, ``resize_mode``,
    ``quick_gelu``, ``url``, ``hf_hub``.

    Raises ``UserError`` for a tag that the model lacks, or weights that were trained with the other GELU, of which open_clip
    only warns.
    """
    import open_clip  # slow to import

    plain = name.removesuffix("-quickgelu")
    other = plain if plain != name else f"{name}-quickgelu"
    found = dict(open_clip.get_pretrained_cfg(name, tag) or open_clip.get_pretrained_cfg(other, tag))
    if not found:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise UserError(f"{name} has no weights '{tag}'; known: {', '.join(tags) or 'none'}. Or give a local file with "
                        "--set weights=FILE, and --set pretrained= where it is none of these.")
    quick = bool((open_clip.get_model_config(name) or {}).get("quick_gelu", False))
    if quick != bool(found.get("quick_gelu", False)) and other in open_clip.list_models():
        raise UserError(f"{name} has the wrong activation for the {tag} weights; use --set backbone={other}, or say with "
                        "--set pretrained=TAG what other weights these are.")
    return found


def assumed(path: Path, name: str, tag: str, record: Mapping[str, Any], form: str) -> list[str]:
    """What is taken for granted about the local file ``path`` of ``form``, a line each.

    Raises ``UserError`` for a TorchScript archive without a tag under the plain name: OpenAI's, of quick GELU.
    """
    import open_clip  # slow to import

    if tag:
        squashed = " (they were squashed, which is not done here)" if record.get("resize_mode") == "squash" else ""
        return [f"{path} is taken for the {tag} weights of {name}: open_clip says how their images were resized and normalised"
                f"{squashed}."]
    quick = f"{name}-quickgelu"
    if form == "torchscript" and quick in open_clip.list_models():
        raise UserError(f"{path} is a TorchScript archive, as OpenAI's, whose models have quick GELU, and {name} has not; use "
                        f"--set backbone={quick}, or say what the file is with --set pretrained=TAG.")
    gelu = "quick GELU" if (open_clip.get_model_config(name) or {}).get("quick_gelu") else "GELU"
    return [f"{path} does not say what it was trained with; assumed: OpenAI's mean and std, bicubic resizing, {gelu}. Say what "
            "it is with --set pretrained=TAG."]


def fetch(name: str, tag: str, record: Mapping[str, Any]) -> Path:
    """The file of ``tag``'s weights, from this machine or downloaded. Raises ``UserError`` when neither is possible."""
    import open_clip  # slow to import

    kept = _kept(record)
    if kept is not None:
        return kept
    try:
        _ask(record)
        with quiet():
            return Path(open_clip.download_pretrained(dict(record)))
    except Exception as error:  # whatever a network raises
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"the weights of {name} ({tag}) are not on this machine and could not be downloaded ({reason}). Give a "
                        "local file with --set weights=FILE.") from None


def _kept(record: Mapping[str, Any]) -> Path | None:
    """The file where open_clip would find it again."""
    from huggingface_hub import try_to_load_from_cache
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, file = os.path.split(record.get("hf_hub") or "")
    if not repository:
        kept = Path("~/.cache/clip").expanduser() / os.path.basename(record["url"])
        return kept if kept.is_file() else None
    safe = f"{os.path.splitext(file)[0]}.safetensors" if file else HF_SAFE_WEIGHTS_NAME
    for candidate in (safe, file or HF_WEIGHTS_NAME):
        found = try_to_load_from_cache(repository, candidate)
        if isinstance(found, str):
            return Path(found)
    return None


def _ask(record: Mapping[str, Any]) -> None:
    """Raise ``OSError`` where the file's server does not answer within ``PATIENCE``, whatever keeps it: looking up its
    name has no limit of its own."""
    from huggingface_hub import constants, get_session

    server = constants.ENDPOINT if record.get("hf_hub") else record["url"]
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            get_session().head(server, timeout=PATIENCE)
        except BaseException as error:
            failed.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE + 0.5)
    if asking.is_alive() or failed:
        raise OSError(f"{server} does not answer: {failed[0]}" if failed else f"{server} does not answer")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of open_clip and Hugging Face's library: what matters of them is said in one line here."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
