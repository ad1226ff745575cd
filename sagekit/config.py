"""Every setting of a run in one frozen model, with its default and where the default comes from.

``Config.preset(name, method)`` combines three layers: the field defaults below (the choices that the paper leaves open,
named in README "Open choices"), the data set's row of Table 8, and the method's switches. Nothing else holds a default.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .data.prompts import SINGLE
from .errors import UserError, nearest
from .paper import TABLE_8

Method = Literal["zero-shot", "classifier", "lift", "sage", "scratch"]
Module = Literal["none", "bitfit", "vpt-shallow", "vpt-deep", "adapter", "lora", "adaptformer", "sg", "full"]
Loss = Literal["ce", "focal", "class-balanced", "cdb", "la", "ldam", "ldam-drw", "lade", "kps", "dbm", "proco"]
COSINE_LOSSES = ("ldam", "ldam-drw", "kps", "dbm")
"""Losses that are defined on cosines, and so need a cosine classifier and no feature interchange."""
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same safe subset, ten times as fast where PyYAML has its C part
MACHINE_SETTINGS = ("device", "workers", "data_root", "checkpointing", "compile")
"""What may differ when a run is resumed: where it runs, not what it computes."""
SCRATCH = "resnet32"
"""The backbone that is trained from scratch (Table 7)."""


class Config(BaseModel):
    """One run, completely. Unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # --- what is trained ---
    preset_name: str = Field("mini", description="the preset that this configuration started from")
    method: Method = Field("sage", description="label of the method; sets the switches of METHODS")
    module: Module = Field("sg", description="what is trained in every block (Table 9); sg: Eq 7-9, adaptformer: Eq 5-6")
    bottleneck: int | None = Field(None, ge=1, description="r; empty: 2^max(0, floor(log2(C / 2L))) (finding 6)")
    prompts: int = Field(10, ge=1, description="p, prompt tokens of vpt-shallow and vpt-deep")
    alpha: float = Field(0.1, ge=0, le=1, description="weight of the ReLU branch, Eq 8 (Table 8)")
    gate: Literal["projection", "vector", "text"] = Field("projection", description="W_proj, a plain vector, or none")
    gate_init: Literal["zero", "identity", "kaiming"] = Field("identity", description="W_proj at the start; open choice")
    scale_init: float = Field(1.0, description="s and s_vt of the adapters at the start (LIFT)")
    guidance_grad: bool = Field(True, description="gradient flows through w_bar into W; open choice")
    templates: Literal[1, 60] = Field(60, description="prompt templates that W starts from ('Init' in Table 5)")
    single_template: str = Field(SINGLE, pattern=r"\[cls\]", description="the prompt when templates is 1 (LIFT)")
    text_average: Literal["normalised", "plain"] = Field(
        "normalised", description="whether a prompt's feature is normalised before averaging (LIFT)")
    logit_scale: float = Field(25.0, gt=0, description="of the cosine classifier (LIFT)")
    fit: bool = Field(True, description="feature interchange, Eq 23-24")
    fit_init: float = Field(0.5, description="s_1 and s_2 at the start; open choice")

    # --- loss ---
    loss: Loss = Field("la", description="Eq 1 (la), or one of the losses that the paper compares (compared_losses)")
    compensation: bool = Field(True, description="the factor of Eq 21 in the loss ('CF'); with la this is Eq 22")
    tau: float = Field(1.0, ge=0, description="of loss 'la'; 1 in the paper")
    gamma: float = Field(0.05, ge=0, le=1, description="Eq 21 (Table 8)")
    mu: float = Field(0.5, gt=0, description="Eq 21 (Table 8); cancels in Eq 22")
    lambda_1: float = Field(0.015, ge=0, le=100, description="weight of l(z^v), Eq 24 (Table 8)")
    lambda_2: float = Field(0.015, ge=0, le=100, description="weight of l(z^t), Eq 24 (Table 8)")
    lambda_3: float = Field(0.4, ge=0, le=100, description="weight of l(z^), Eq 24 (Table 8)")

    # --- data ---
    dataset: Literal["world", "cifar100", "list", "folder"] = Field("world", description="where images come from")
    data_root: Path = Field(Path("data"), description="folder of the data set; for lists, what paths are relative to")
    train_list: str = Field("", description="image list 'path label' a line, relative to data_root (dataset=list)")
    test_list: str = Field("", description="likewise, for the balanced test set")
    imbalance_ratio: float | None = Field(100.0, ge=1, description="beta; empty: the data's own counts (folder)")
    largest_class: int = Field(500, ge=1, description="n_1, for data that the kit makes long-tailed")
    test_per_class: int = Field(50, ge=1, description="test images a class (dataset=world)")
    mismatch: bool = Field(True, description="rare classes show only some colours in training (dataset=world)")
    data_seed: int = Field(0, ge=0, description="which images are drawn; the run's seed does not change the data")
    test_share: float = Field(0.2, gt=0, lt=1, description="of a folder without a test/ split, kept for the test")

    # --- foundation model ---
    backbone: str = Field("mini", description="'mini', an open_clip ViT such as ViT-B-16-quickgelu, or 'resnet32'")
    pretrained: str = Field("", description="open_clip tag of the weights, e.g. openai; 'random': none (benchmarks)")
    weights: Path | None = Field(None, description="local weight file instead of the tag (safetensors or state dict)")

    # --- a network from scratch (backbone=resnet32) ---
    head: Literal["linear", "cosine"] = Field("linear", description="its classifier; margin losses need cosine")
    image_size: int = Field(32, ge=8, description="pixels that it sees (a CLIP knows its own size)")

    # --- views ---
    train_view: Literal["resized", "padded"] = Field(
        "resized", description="RandomResizedCrop (LIFT), or shifted by up to an eighth (from scratch)")
    crop_scale: tuple[float, float] = Field((0.08, 1.0), description="area of RandomResizedCrop (LIFT)")
    flip: bool = Field(True, description="horizontal flip with probability 1/2 (LIFT)")
    test_resize: int = Field(256, ge=8, description="pixels; then a centre crop of the model's image size (LIFT)")
    ensemble_margin: int = Field(24, ge=1, description="five crops out of image size + this many pixels (LIFT)")
    ensembling: bool = Field(False, description="also measure with five crops averaged (finding 10)")

    # --- optimisation (section 4.2; weight decay and schedule from LIFT) ---
    epochs: int = Field(10, ge=0)
    batch_size: int = Field(128, ge=1, description="images a step, over all devices and accumulated parts")
    accumulate: int = Field(1, ge=1, description="parts that a batch is split into")
    lr: float = Field(0.01, gt=0)
    schedule: Literal["epoch", "step", "milestones"] = Field(
        "epoch", description="cosine stepped per epoch (LIFT) or step; milestones: times 'decay' after 80 % and after 90 %")
    decay: float = Field(0.01, gt=0, le=1, description="of schedule 'milestones'")
    warmup_epochs: int = Field(0, ge=0, description="epochs of linear warm-up (schedule 'milestones')")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    clip_norm: float | None = Field(None, gt=0, description="gradient clipping; off by default")
    seed: int = Field(0, ge=0)
    device: str = Field("auto", pattern="^(auto|cpu|cuda|mps)$")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where it is fast; fp32: no TF32 either")
    checkpointing: bool = Field(False, description="compute each block again in the backward pass: less memory, more time")
    compile: bool = Field(False, description="torch.compile the training step: a minute at the start, faster steps after it")
    workers: int = Field(2, ge=0, description="processes that decode images (lists and folders)")

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        scratch = self.backbone == SCRATCH
        if scratch != (self.method == "scratch"):
            raise ValueError(f"method scratch and backbone {SCRATCH} go together")
        if scratch and (self.module != "none" or self.fit):
            raise ValueError("a network from scratch has no frozen model: it needs module=none and fit=false")
        if self.loss in COSINE_LOSSES and self.fit:
            raise ValueError(f"loss {self.loss} is defined on cosines and FIT's sum is none; set fit=false")
        if self.loss in COSINE_LOSSES and scratch and self.head != "cosine":
            raise ValueError(f"loss {self.loss} needs head=cosine")
        if self.loss == "la" and self.compensation and self.tau != 1:
            raise ValueError("Eq 22 has tau = 1; set compensation=false to move tau (tau = 1 + gamma is the same loss)")
        if self.loss == "proco" and not scratch:
            raise ValueError("loss proco trains a projection of its own: it needs method scratch")
        return self

    @classmethod
    def preset(cls, name: str, method: str = "sage", **changes: Any) -> Config:
        """The paper's settings for data set ``name`` (see ``PRESETS``), with ``changes`` on top.

        Raises ``UserError`` for an unknown preset, method or key, or a value of the wrong type or range.
        """
        if name not in PRESETS:
            raise UserError(f"there is no preset '{name}'.{nearest(name, PRESETS)} `sagekit presets` lists them.")
        if method not in METHODS:
            raise UserError(f"there is no method '{method}'.{nearest(method, METHODS)} Methods: {', '.join(METHODS)}.")
        layers = {**PRESETS[name], **METHODS[method], **(_MINI_SCRATCH if (name, method) == ("mini", "scratch") else {})}
        return cls.checked({**layers, "preset_name": name, "method": method, **changes})

    def changed(self, **changes: Any) -> Config:
        """A copy with some settings changed; validated like ``preset``."""
        return self.checked({**self.model_dump(), **changes})

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Config:
        """Validate; a mistake becomes one line that names the key and, for an unknown one, the nearest."""
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:  # a rule of _fits_together
                raise UserError(f"settings: {first['msg'].removeprefix('Value error, ')}.") from None
            key = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise UserError(f"there is no setting '{key}'.{nearest(key, cls.model_fields)}") from None
            raise UserError(f"setting '{key}': {first['msg'].lower()}, but it is {first['input']!r}.") from None

    def to_yaml(self) -> str:
        """Every setting as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def changes(self) -> dict[str, Any]:
        """The settings, but for the seed, that are not those of its preset and method."""
        start = self.preset(self.preset_name, self.method).model_dump(mode="json")
        return {k: v for k, v in self.model_dump(mode="json").items() if v != start[k] and k != "seed"}

    def command(self, out: Path) -> str:
        """The command line that continues this configuration's run in ``out``, or starts it there."""
        sets = [f"--set {shlex.quote(f'{key}={yaml_value(value)}')}" for key, value in self.changes().items()]
        return " ".join(["sagekit train --resume", f"--out {shlex.quote(str(out))}", f"--preset {self.preset_name}",
                         f"--method {self.method}", f"--seed {self.seed}", *sets])

    @classmethod
    def from_yaml(cls, path: Path) -> Config:
        """Read what ``to_yaml`` wrote. Raises ``UserError`` for a missing or damaged file."""
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), Loader=_YAML)
        except FileNotFoundError:
            raise UserError(f"no configuration at {path}.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not valid YAML ({str(error).splitlines()[0]}).") from None
        if not isinstance(values, dict):
            raise UserError(f"{path} is not a list of 'key: value' settings.")
        return cls.checked(values)


def yaml_value(value: Any) -> str:
    """One value as ``parse_assignments`` reads it back."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("...").strip()


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """``["lr=0.02", "fit=false"]`` to a dictionary; values are read as YAML (numbers, true, lists)."""
    result: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set takes key=value, not '{text}'.")
        try:
            result[key.strip()] = _number(yaml.safe_load(value))
        except yaml.YAMLError:
            raise UserError(f"--set {key}: '{value}' cannot be read as a value.") from None
    return result


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 (no dot) as text; people mean the number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


METHODS: dict[str, dict[str, Any]] = {
    "zero-shot": {"module": "none", "templates": 60, "compensation": False, "fit": False, "epochs": 0},
    "classifier": {"module": "none", "templates": 1, "compensation": False, "fit": False},
    "lift": {"module": "adaptformer", "templates": 1, "compensation": False, "fit": False},
    "sage": {"module": "sg", "templates": 60, "compensation": True, "fit": True},
    # The common protocol of CIFAR-100-LT from scratch; Table 7's methods differ from it where study.table_7 says.
    "scratch": {"backbone": SCRATCH, "pretrained": "", "module": "none", "fit": False, "loss": "ce", "compensation": False,
                "train_view": "padded", "test_resize": 32, "ensemble_margin": 4, "epochs": 200, "batch_size": 128, "lr": 0.1,
                "weight_decay": 2e-4, "schedule": "milestones", "warmup_epochs": 5},
}

_REAL: dict[str, Any] = {"backbone": "ViT-B-16-quickgelu", "pretrained": "openai"}


def _lists(name: str) -> dict[str, Any]:
    return {"dataset": "list", "train_list": f"{name}_train.txt", "test_list": f"{name}_test.txt",
            "imbalance_ratio": None, **_REAL}


_DATA: dict[str, dict[str, Any]] = {
    **{f"cifar100-lt-{beta}": {"dataset": "cifar100", "imbalance_ratio": float(beta), **_REAL} for beta in (100, 50, 10)},
    "places-lt": _lists("Places_LT"),
    "imagenet-lt": _lists("ImageNet_LT"),
    "inat2018": _lists("iNaturalist18"),
}

# The mini world's optimisation was searched on LIFT alone (docs/mini-world.md); Sage's own settings are those that
# Table 8 gives for CIFAR-100-LT at beta = 100.
_MINI: dict[str, Any] = {
    "dataset": "world", "backbone": "mini", "bottleneck": 8, "epochs": 5, "batch_size": 64, "lr": 0.01,
    "crop_scale": (0.6, 1.0), "test_resize": 48, "ensemble_margin": 6,
}

# From scratch on the mini world: the downstream images have half of their 48 px as resolution, and two cores have little
# time, so smaller images and fewer, smaller batches; the rate was searched on CE (benchmarks/search_scratch.py).
_MINI_SCRATCH: dict[str, Any] = {"image_size": 24, "test_resize": 24, "ensemble_margin": 3, "epochs": 15, "batch_size": 64,
                                 "warmup_epochs": 1, "lr": 0.05}

PRESETS: dict[str, dict[str, Any]] = {
    "mini": _MINI,
    **{name: {**_DATA[name], **vars(row)} for name, row in TABLE_8.items()},
    # Own images: no row of Table 8 is theirs; ImageNet-LT's is the nearest in kind (photographs of objects).
    "folder": {"dataset": "folder", "imbalance_ratio": None, **_REAL, **vars(TABLE_8["imagenet-lt"])},
}
