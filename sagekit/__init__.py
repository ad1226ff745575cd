"""sagekit: a study kit for vision-language fine-tuning on long-tailed data (Sage, LIFT and their parts)."""

from __future__ import annotations

from . import losses
from .adapters import AdaptFormer, FoldedAdapter, SGAdapter
from .backbone import Backbone, load_backbone
from .classifier import Classifier, Logits
from .config import Config
from .datasets import DataSet, load_data
from .errors import UserError
from .evaluate import evaluate, load_model
from .model import Model, build_model
from .predictions import Predictions
from .runs import Run
from .train import train
from .version import VERSION

__version__ = VERSION
__all__ = ["AdaptFormer", "Backbone", "Classifier", "Config", "DataSet", "FoldedAdapter", "Logits", "Model", "Predictions",
           "Run", "SGAdapter", "UserError", "build_model", "evaluate", "load_backbone", "load_data", "load_model", "losses",
           "train"]
