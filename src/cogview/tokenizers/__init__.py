"""Tokenizers for text (SentencePiece) and images (vector-quantised autoencoders)."""
