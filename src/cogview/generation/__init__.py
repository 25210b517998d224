"""Token generation: sampling, the engine, decoding strategies, and one module per task."""
