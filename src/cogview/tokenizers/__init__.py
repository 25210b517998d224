"""Pictures and texts to tokens and back: SentencePiece for text, vector-quantised autoencoders for pictures."""
