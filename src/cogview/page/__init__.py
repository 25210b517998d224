"""The page that generates in the browser: script modules that run an exported family with onnxruntime-web."""
