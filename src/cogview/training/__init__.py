"""Training: one loop for every model, and the tasks that say what is trained.

- ``recipe.py``      what a YAML recipe may say, checked before anything is loaded
- ``task.py``        what a task must provide; ``tasks/`` holds them
- ``trainer.py``     the loop: accumulate, clip, step, log, evaluate, checkpoint, stop cleanly
- ``optim.py``       AdamW and Muon with the papers' parameter groups
- ``schedule.py``    learning rates; ``precision.py`` autocast and the fp16 loss scaler; ``ema.py`` averages
- ``checkpoint.py``  atomic, hashed checkpoints; ``rng.py`` the random states in them
- ``metrics.py``     ``metrics.jsonl`` and the plot of it; ``progress.py`` what the terminal shows
- ``objective.py``   the sequence loss; ``samples.py`` images drawn on the way
"""
