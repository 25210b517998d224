"""The training tasks: one file each, named in ``cogview.training.registry.TASKS``."""
