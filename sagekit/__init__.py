"""sagekit: a study kit for vision-language fine-tuning on long-tailed data (Sage, LIFT and their parts)."""

from __future__ import annotations

from . import losses
from .config import Config
from .data.datasets import DataSet, load_data
from .errors import UserError
from .networks.adapters import AdaptFormer, FoldedAdapter, SGAdapter
from .networks.backbone import Backbone, load_backbone
from .networks.heads import Classifier, Logits
from .networks.tuned import Model, build_model
from .runs.predictions import Predictions
from .runs.run import Run
from .training.evaluate import evaluate, load_model
from .training.train import train
from .version import VERSION

__version__ = VERSION
__all__ = ["AdaptFormer", "Backbone", "Classifier", "Config", "DataSet", "FoldedAdapter", "Logits", "Model", "Predictions",
           "Run", "SGAdapter", "UserError", "build_model", "evaluate", "load_backbone", "load_data", "load_model", "losses",
           "train"]
