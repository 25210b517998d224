"""Reading and checking training data, token shards, and the resumable loader (CogView, section 2.2).

The stages of the pipeline: :mod:`~cogview.data.sources` (files to samples), :mod:`~cogview.data.images` (any
image to the tokenizer's square), :mod:`~cogview.data.build` (samples to codes and text tokens),
:mod:`~cogview.data.shards` (memory-mapped tokens on disk), :mod:`~cogview.data.loader` (shuffled batches
that resume anywhere). :mod:`~cogview.data.released` reads the data files of the original CogView code.
"""
