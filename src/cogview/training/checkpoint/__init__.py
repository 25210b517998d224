"""Checkpoints of a run: written atomically, verified before use, loadable on any number of processes.

``directory.py`` defines the format on disk, ``sharded.py`` writes from many ranks, ``writer.py`` writes in
the training thread or in the background, ``restore.py`` loads the tensors.
"""
