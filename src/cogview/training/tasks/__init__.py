"""The training tasks, registered in ``cogview.training.registry.TASKS``."""
