"""Models in forms that other programs read: ONNX graphs."""
