"""Pipelines: the tasks of the papers, each a part of its own, composed into the models that people use.

``text_to_image``, ``captioning``, ``super_resolution`` and ``inpainting`` implement the tasks;
``cogview`` and ``cogview2`` say which parts a family has; ``model`` is what all of them offer.
"""
