"""A run's whole configuration: the parts of ``settings`` and the method's own, put together; flat on the outside.

``Config.preset(name, method)`` layers, later ones over earlier: the fields' defaults (the choices that the paper leaves open,
docs/choices.md), what the data set is (``PRESETS``), what a network from scratch needs, and the method's own settings for that
data set (its file's ``PUBLISHED``, or ``MINI``). Nothing else holds a default.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from . import methods
from .errors import UserError, nearest
from .methods._network import as_lift
from .methods._stages import Stage
from .networks.resnet import NAME as SCRATCH
from .networks.resnet import NAMES as FROM_SCRATCH
from .networks.timm_vit import PREFIX as TIMM
from .settings import DataSettings, MachineSettings, NetworkSettings, Part, ViewSettings, where

FORMAT = 3
"""Of a run folder. Others are refused."""
PARTS: dict[str, type[Part]] = {"data": DataSettings, "network": NetworkSettings, "views": ViewSettings,
                                "machine": MachineSettings}
WHERE = set().union(*map(where, PARTS.values()))
"""Settings that say where a run computes, not what: they may differ when it is resumed, and name no point of a sweep."""
_LABELS = ("preset_name", "method", "seed")
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same safe subset, ten times as fast where PyYAML has its C part


class Config(BaseModel):
    """One run. ``settings`` are the method's own (``methods.load(method).Settings``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset_name: str
    method: str
    seed: int
    data: DataSettings
    network: NetworkSettings
    views: ViewSettings
    machine: MachineSettings
    settings: Any

    @classmethod
    def preset(cls, name: str, method: str = "sage", /, **changes: Any) -> Config:
        """The paper's settings for data set ``name`` (see ``PRESETS``), with ``changes`` of any part on top.

        Raises ``UserError`` for an unknown preset, method or key, or a value of the wrong type or range.
        """
        _known_preset(name)
        _no_labels(changes)
        needs = _needs(method, changes.get("base"))
        layers = {**PRESETS[name], **(_scratch(name) if needs == "scratch" else {}), **_own(name, method)}
        if needs != methods.load(method).needs:
            layers |= as_lift(_own(name, "lift")) | getattr(methods.about(method), "ON_LIFT", {})
        if str(changes.get("backbone", "")).startswith(TIMM):  # its name says which weights
            layers["pretrained"] = ""
        return cls.checked({"seed": 0, **layers, **changes, "preset_name": name, "method": method})

    def changed(self, /, **changes: Any) -> Config:
        """A copy with some settings changed; validated like ``preset``."""
        _no_labels(changes)
        return self.checked({**self.flat, **changes})

    @property
    def flat(self) -> dict[str, Any]:
        """Every setting by its key, whatever part holds it."""
        parts = {key: value for part in (*PARTS, "settings") for key, value in dict(getattr(self, part)).items()}
        return {key: getattr(self, key) for key in _LABELS} | parts

    @property
    def needs(self) -> str:
        """``clip`` or ``scratch``: what the method starts from with these settings."""
        return _needs(self.method, getattr(self.settings, "base", None))

    @property
    def stages(self) -> list[Stage]:
        """What is trained, one stage after the other."""
        return methods.load(self.method).stages(self.settings)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Config:
        """Sort flat ``values`` into their parts and validate; a mistake is one line that names the key and the way out."""
        _known_preset(str(values.get("preset_name")))
        method = methods.load(str(values["method"]))
        parts = {**PARTS, "settings": method.Settings}
        known = {key: part for part, model in parts.items() for key in model.model_fields}
        found: dict[str, dict[str, Any]] = {part: {} for part in parts}
        for key, value in values.items():
            if key in known:
                found[known[key]][key] = value
            elif key not in _LABELS:
                raise UserError(_unknown(str(key), str(values["method"]), known))
        built: dict[str, Any] = {part: _validated(parts[part], found[part]) for part in parts}
        seed = values.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise UserError(f"setting 'seed': it must be a whole number of 0 or more, but it is {seed!r}.")
        _fits(str(values["method"]), _needs(str(values["method"]), values.get("base")), built["network"].backbone)
        labels: dict[str, Any] = {"preset_name": str(values["preset_name"]), "method": str(values["method"])}
        return cls.model_construct(None, **{**labels, "seed": seed, **built})

    def to_yaml(self) -> str:
        """Every setting as YAML, with the run format's number."""
        return yaml.safe_dump({"format": FORMAT, **self._plain()}, sort_keys=False)

    def _plain(self) -> dict[str, Any]:
        """``flat`` in YAML's own types."""
        return {key: getattr(self, key) for key in _LABELS} | _dumped(*(getattr(self, part) for part in (*PARTS, "settings")))

    def changes(self) -> dict[str, Any]:
        """The settings, but for the seed, that are not those of its preset and method."""
        start = self.preset(self.preset_name, self.method)._plain()
        return {k: v for k, v in self._plain().items() if v != start[k] and k != "seed"}

    def from_defaults(self) -> dict[str, Any]:
        """The settings, but for where it runs, that are not the fields' own defaults: what names a point of a sweep. A setting
        that is added later, with a default, changes no name."""
        start = _dumped(*(type(getattr(self, part))() for part in (*PARTS, "settings")))
        return {k: v for k, v in self._plain().items() if k not in _LABELS and k not in WHERE and v != start[k]}

    def command(self, out: Path) -> str:
        """The command line that continues this configuration's run in ``out``, or starts it there."""
        sets = [f"--set {shlex.quote(f'{key}={yaml_value(value)}')}" for key, value in self.changes().items()]
        return " ".join(["sagekit train --resume", f"--out {shlex.quote(str(out))}", f"--preset {self.preset_name}",
                         f"--method {self.method}", f"--seed {self.seed}", *sets])

    @classmethod
    def from_yaml(cls, path: Path) -> Config:
        """Read what ``to_yaml`` wrote. Raises ``UserError`` for a missing or damaged file, or one of another format."""
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), Loader=_YAML)
        except FileNotFoundError:
            raise UserError(f"no configuration at {path}.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not valid YAML ({str(error).splitlines()[0]}).") from None
        if not isinstance(values, dict) or "method" not in values:
            raise UserError(f"{path} is not a list of 'key: value' settings with a method.")
        if (found := values.pop("format", 1)) != FORMAT:
            raise UserError(f"{path} has run format {found} and this sagekit reads {FORMAT}; train the run again.")
        return cls.checked(values)


def _known_preset(name: str) -> None:
    if name not in PRESETS:
        raise UserError(f"there is no preset '{name}'.{nearest(name, PRESETS)} `sagekit presets` lists them.")


def _no_labels(changes: Mapping[str, Any]) -> None:
    for key, option in (("method", "--method"), ("preset_name", "--preset"), ("preset", "--preset")):
        if key in changes:
            raise UserError(f"'{key}' is no setting: it is chosen with {option}, or as an argument of Config.preset.")


def _dumped(*parts: Part) -> dict[str, Any]:
    """The settings of ``parts`` in YAML's own types."""
    return {key: value for part in parts for key, value in part.model_dump(mode="json").items()}


def _validated(model: type[Part], values: dict[str, Any]) -> Part:
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # a rule between settings
            raise UserError(f"settings: {first['msg'].removeprefix('Value error, ')}.") from None
        raise UserError(f"setting '{first['loc'][0]}': {first['msg'].lower()}, but it is {first['input']!r}.") from None


def _unknown(key: str, method: str, known: Mapping[str, str]) -> str:
    owners = [name for name in methods.names() if key in methods.load(name).Settings.model_fields]
    if owners:
        return f"'{key}' is a setting of {', '.join(owners)}, not of {method}; `sagekit methods {method}` lists its own."
    return f"there is no setting '{key}'.{nearest(key, known)}"


def _needs(method: str, base: Any) -> str:
    """What ``method`` starts from on ``base``, its default where that is None."""
    return "clip" if base == "lift" else methods.load(method).needs


def _fits(name: str, needs: str, backbone: str) -> None:
    if (backbone in FROM_SCRATCH) == (needs == "scratch"):
        return
    if needs != methods.load(name).needs:
        raise UserError(f"base=lift needs a CLIP and {backbone} is trained from scratch; name base where the configuration is "
                        "made (--set base=lift beside --method), or another backbone.")
    others = ", ".join(n for n in methods.names() if methods.load(n).needs != needs)
    if needs == "clip":
        raise UserError(f"method {name} needs a CLIP and {backbone} is trained from scratch; choose another backbone, or one "
                        f"of the methods {others}.")
    raise UserError(f"method {name} trains a network from scratch ({', '.join(FROM_SCRATCH)}) and {backbone} is pretrained; "
                    f"leave out backbone, or use one of the methods {others}.")


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


_REAL: dict[str, Any] = {"backbone": "ViT-B-16-quickgelu", "pretrained": "openai"}


def _lists(name: str, train: str, val: str, test: str) -> dict[str, Any]:
    return {"dataset": "list", "data_name": name, "train_list": train, "val_list": val, "test_list": test,
            "imbalance_ratio": None, **_REAL}


PRESETS: dict[str, dict[str, Any]] = {
    # Images of the mini model's own size: no resize. The crop was searched on LIFT alone (docs/mini-world.md).
    "mini": {"dataset": "world", "backbone": "mini", "crop_scale": (0.6, 1.0), "test_resize": 48, "ensemble_margin": 6},
    **{f"cifar100-lt-{beta}": {"dataset": "cifar100", "imbalance_ratio": float(beta), **_REAL} for beta in (100, 50, 10)},
    **{f"cifar10-lt-{beta}": {"dataset": "cifar10", "imbalance_ratio": float(beta), "largest_class": 5000, **_REAL}
       for beta in (100, 50, 10)},
    "places-lt": _lists("Places-LT", "Places_LT_train.txt", "Places_LT_val.txt", "Places_LT_test.txt"),
    "imagenet-lt": _lists("ImageNet-LT", "ImageNet_LT_train.txt", "ImageNet_LT_val.txt", "ImageNet_LT_test.txt"),
    # Its test images have no labels: everybody reports on the validation list.
    "inat2018": _lists("iNaturalist 2018", "iNaturalist18_train.txt", "", "iNaturalist18_val.txt"),
    "list": _lists("", "train.txt", "", ""),
    "folder": {"dataset": "folder", "imbalance_ratio": None, **_REAL},
}
"""What each data set is, and the foundation model that methods start from there."""

LIKE = {"folder": "imagenet-lt", "list": "imagenet-lt", **{f"cifar10-lt-{b}": f"cifar100-lt-{b}" for b in (100, 50, 10)}}
"""No row of Table 8 is theirs: own images are nearest in kind to ImageNet-LT (photographs of objects), CIFAR-10 to
CIFAR-100."""


LARGE: dict[str, Any] = {"backbone": "resnet50", "pretrained": "", "image_size": 224, "test_resize": 256, "view": "jitter",
                         "epochs": 90, "batch_size": 256, "lr": 0.1, "schedule": "cosine", "warmup_epochs": 0,
                         "weight_decay": 5e-4}
"""How networks from scratch are usually trained on the large sets; a method's own settings there come on top."""
LARGE_SETS: dict[str, dict[str, Any]] = {"imagenet-lt": LARGE, "inat2018": LARGE | {"weight_decay": 1e-4},
                                         "places-lt": LARGE | {"backbone": "resnet152", "blocks": "last"}}
"""Places-LT's starts from a ResNet-152 that has seen ImageNet, whose last block is trained: --set weights=FILE."""


def _scratch(preset: str) -> dict[str, Any]:
    """What a network from scratch is and sees: whole test images of its own size. The mini world's downstream images have half
    of their 48 px as resolution, and two cores have little time, so it sees 24 px there."""
    if preset in LARGE_SETS:
        return LARGE_SETS[preset]
    size = 24 if preset == "mini" else 32
    return {"backbone": SCRATCH, "pretrained": "", "image_size": size, "test_resize": size, "ensemble_margin": size // 8}


def _own(preset: str, method: str) -> dict[str, Any]:
    """The method's own settings for a preset."""
    module = methods.about(method)
    if preset == "mini":
        return cast(dict[str, Any], module.MINI)
    published = module.PUBLISHED.get(LIKE.get(preset, preset))
    return {} if published is None else dict(published.settings)
