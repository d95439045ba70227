"""Stands before MLflow for trainings that report nothing to it: DeepSpeed imports it for its tuner, for a second."""

raise ImportError("MLflow is left out here")
