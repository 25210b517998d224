"""Training: one loop for every model, and the tasks that define what is trained.

- ``recipe.py``        the fields of a YAML recipe, validated before anything is loaded
- ``task.py``          the interface of a task; ``tasks/`` implements it
- ``trainer.py``       the loop: accumulate, clip, step, log, evaluate, checkpoint, stop cleanly
- ``optim.py``         AdamW and Muon with the papers' parameter groups
- ``schedule.py``      learning rates; ``precision.py`` autocast and fp16 loss scaling; ``ema.py`` averages
- ``checkpoint/``      atomic, hashed checkpoints; ``rng.py`` the random states in them
- ``metrics_file.py``  ``metrics.jsonl`` and its plot; ``progress.py`` the terminal output
- ``objective.py``     the sequence loss; ``sample_sheet.py`` images generated during training
"""
