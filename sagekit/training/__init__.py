"""Training, measuring, predicting, and what leaves a run."""
