"""Generating in the browser: script modules that read an exported family and run it with onnxruntime-web."""
