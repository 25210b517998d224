"""Texts and images to tokens and back: SentencePiece, and vector-quantised autoencoders."""
