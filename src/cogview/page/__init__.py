"""A page that generates images in the browser: scripts that run an exported family with onnxruntime-web."""
