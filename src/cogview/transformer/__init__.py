"""The transformer (CogView, sections 2.3 and 2.4): token ids in, hidden states and logits out.

It knows no task, no text and no image: a sequence is ids, positions and who may attend to whom.
"""
