"""sagekit: a study kit for vision-language fine-tuning on long-tailed data (Sage, LIFT and the methods they are compared
with)."""

from __future__ import annotations

import os

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    # Before torch starts its threads: they wait for work by spinning, and two runs on the same cores starve each other by it.
    # A short spin costs one run little (benchmarks/contention.py).
    os.environ |= {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "0"}

from . import losses, methods
from .config import Config
from .data.datasets import load_data
from .data.splits import DataSet
from .errors import UserError
from .methods import Method
from .networks.adapters import AdaptFormer, FoldedAdapter, SGAdapter
from .networks.backbone import Backbone, load_backbone
from .networks.heads import Logits
from .runs.predictions import Predictions
from .runs.run import Run
from .training.build import build_model, load_model
from .training.evaluate import evaluate
from .training.predict import predict
from .training.train import train
from .version import VERSION

__version__ = VERSION
__all__ = ["AdaptFormer", "Backbone", "Config", "DataSet", "FoldedAdapter", "Logits", "Method", "Predictions", "Run",
           "SGAdapter", "UserError", "build_model", "evaluate", "load_backbone", "load_data", "load_model", "losses", "methods",
           "predict", "train"]
