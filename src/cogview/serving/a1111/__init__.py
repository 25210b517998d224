"""The API of AUTOMATIC1111's web UI (``/sdapi/v1``), as far as clients of it need it: Open WebUI,
SillyTavern, plugins of paint programs. What these send and nothing here uses is named in ``info``."""
