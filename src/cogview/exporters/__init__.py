"""Export of models for other programs: ONNX graphs."""
