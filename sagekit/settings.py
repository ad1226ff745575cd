"""Settings in parts: each room of the house takes only its own. ``config`` puts them together, flat on the outside.

A setting that says where a run computes, and not what, carries ``where=True``: it may differ when a run is resumed, and names
no point of a sweep.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Part(BaseModel):
    """Frozen settings; unknown keys and wrong types are refused. Nothing (``key=``) is the empty text where a text is due."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_text(cls, values: Any) -> Any:
        texts = {key for key, field in cls.model_fields.items() if field.annotation is str}
        return {key: "" if value is None and key in texts else value for key, value in values.items()}


def _where(default: Any, **about: Any) -> Any:
    return Field(default, json_schema_extra={"where": True}, **about)


def where(part: type[BaseModel]) -> set[str]:
    """The settings of ``part`` that say where a run computes, not what."""
    return {key for key, field in part.model_fields.items() if isinstance(field.json_schema_extra, dict)
            and field.json_schema_extra.get("where")}


class DataSettings(Part):
    """Which images."""

    dataset: Literal["world", "cifar10", "cifar100", "list", "folder"] = Field("world", description="where images come from")
    data_root: Path = _where(Path("data"), description="folder of the data set; for lists, what paths are relative to")
    data_name: str = Field("", description="what the set is called in tables; empty: by its kind, list or folder")
    train_list: str = Field("", description="image list 'path label' a line, relative to data_root (dataset=list)")
    val_list: str = Field("", description="likewise, for validation; empty: val_share")
    test_list: str = Field("", description="likewise, for the test")
    imbalance_ratio: float | None = Field(100.0, ge=1, description="beta; empty: the data's own counts (folder)")
    largest_class: int = Field(500, ge=1, description="n_1, for data that the kit makes long-tailed")
    test_per_class: int | None = Field(
        None, ge=1, description="test images a class, for a balanced test: of the mini world (empty: 50), or kept of a folder "
                                "without a test split, in place of test_share")
    val_per_class: int = Field(20, ge=0, description="validation images a class (dataset=world)")
    val_share: float = Field(0.0, ge=0, lt=1, description="of each class's training images, kept where no validation is given")
    mismatch: bool = Field(True, description="rare classes show only some colours in training (dataset=world)")
    data_seed: int = Field(0, ge=0, description="which images are drawn; the run's seed does not change the data")
    test_share: float = Field(0.2, gt=0, lt=1, description="of a folder without a test split, kept for the test")
    thin_classes: Literal["refuse", "train", "leave_out"] = Field(
        "refuse", description="a class that training and test cannot both have: refuse, keep it in training only, or leave it "
                              "out; one without training images is left out with either")
    bad_images: Literal["refuse", "skip"] = Field("refuse", description="files that are no whole images")
    head_above: int = Field(100, ge=1, description="a head class has more training images (LIFT)")
    tail_below: int = Field(20, ge=1, description="a tail class has fewer (LIFT)")
    templates_file: Path | None = Field(None, description="own prompts: a text file, one a line, with [cls] or {}")
    class_texts: Path | None = Field(
        None, description="own sentences in place of prompts: JSON {class: [sentences]} or CSV with the columns class, text")

    @model_validator(mode="after")
    def _ordered(self) -> DataSettings:
        if self.tail_below > self.head_above + 1:
            raise ValueError(f"tail_below {self.tail_below} is above head_above {self.head_above}: a class would be both")
        return self


class NetworkSettings(Part):
    """Which network: a frozen CLIP, or one that is trained from scratch."""

    backbone: str = Field("mini", description="'mini', an open_clip ViT such as ViT-B-16-quickgelu, a ViT of timm's (no text "
                                              "tower) such as vit_base_patch16_224.augreg_in21k, or a network from scratch: "
                                              "resnet32, resnet10, resnet50, resnet152, resnext50")
    pretrained: str = Field("", description="open_clip tag of the weights, e.g. openai, also of a local file (empty: none; "
                            "timm's names say it themselves); 'random': no weights (benchmarks)")
    weights: Path | None = Field(None, description="local file to take the weights from, in any common form")
    image_size: int = Field(32, ge=8, description="pixels that a network from scratch sees (a CLIP knows its own size)")


Ensemble = Literal["five_crops", "ten_crops", "random_crops"]


class ViewSettings(Part):
    """How an image is shown."""

    crop_scale: tuple[float, float] = Field((0.08, 1.0), description="area of RandomResizedCrop (LIFT)")
    flip: bool = Field(True, description="horizontal flip with probability 1/2 (LIFT)")
    test_resize: int | None = Field(None, ge=8, description="pixels, then a centre crop; empty: image size * 8 // 7 (LIFT)")
    ensemble_margin: int | None = Field(
        None, ge=1, description="five or ten crops out of image size + this many pixels; empty: one and a half of a ViT's "
                                "patches (LIFT: 24 of B/16, 21 of L/14), or image size * 3 // 28")
    ensembling: bool = Field(False, description="also measure with the logits of several crops averaged (finding 10)")
    ensemble: Ensemble = Field("five_crops", description="which: corners and centre (LIFT), those and their mirror images, or "
                                                         "random_crops of crop_scale and flip (LIFT's 'randaug')")
    random_crops: int = Field(10, ge=1, description="how many random crops (LIFT's table of them: 5, 10, 15, 20)")


class MachineSettings(Part):
    """Where and how a run computes."""

    device: str = _where("auto", pattern="^(auto|cpu|cuda|mps)$", description="auto, cpu, cuda or mps")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where it is fast; fp32: no TF32 either")
    accumulate: int = Field(1, ge=1, description="parts that a batch is split into")
    workers: int = _where(2, ge=0, description="processes that decode images (lists and folders)")
    checkpointing: bool = _where(False, description="compute each block again in the backward pass: less memory, more time")
    compile: bool = _where(False, description="torch.compile the network: a minute at the start, faster steps after it")
    watch: Literal["", "val", "test"] = _where(
        "", description="also measure on these images after each of the last fifth of the epochs: a column of the history; no "
            "stage is then taken from the cache")
    share_stages: bool = _where(True, description="take a first stage that another run has trained alike from the cache")
