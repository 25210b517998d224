"""The transformer (CogView, sections 2.3 and 2.4): token ids in, hidden states and logits out.

It does not know tasks, texts or images: a sequence is ids, positions and an attention pattern.
"""
