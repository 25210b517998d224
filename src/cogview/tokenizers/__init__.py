"""Texts and pictures to tokens and back: SentencePiece, and vector-quantised autoencoders."""
