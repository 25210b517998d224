"""The corpus's sources: one module each, all yielding :class:`~sources.drawing.Drawing`."""
