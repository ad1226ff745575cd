"""The paper's analyses: a model or a run in, numbers out."""
