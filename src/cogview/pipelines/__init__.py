"""Pipelines: one class for each task of the papers, composed into the models that users load.

``text_to_image``, ``captioning``, ``super_resolution`` and ``inpainting`` implement the tasks;
``cogview`` and ``cogview2`` select the tasks that a family supports; ``model`` is their common interface.
"""
