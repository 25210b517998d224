"""The part of AUTOMATIC1111's web UI API (``/sdapi/v1``) that its clients need: Open WebUI, SillyTavern,
plugins of paint programs. Ignored fields of a request are listed in the ``info`` of its response."""
