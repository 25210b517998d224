"""Analysis of models: attention maps, scales of attention scores, numerical stability."""
