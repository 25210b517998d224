"""Checkpoints of a run: written whole or not at all, verified before use, read on any number of processes.

``directory.py`` is the format on disk, ``sharded.py`` what many ranks write together, ``writer.py`` who
writes (the training thread or one in the background), ``restore.py`` puts tensors back in their places.
"""
