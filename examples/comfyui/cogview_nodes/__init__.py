"""ComfyUI nodes that ask a cogview server for pictures: generate, edit, enlarge, describe.

Copy this folder into ComfyUI's ``custom_nodes``. It needs nothing that ComfyUI does not have. The server is
the field ``server`` of each node; a key, where the server asks for one, is read from the environment variable
``COGVIEW_API_KEY`` and so never stands in a workflow.
"""

from .nodes import CogViewCaption, CogViewEdit, CogViewGenerate, CogViewUpscale

NODE_CLASS_MAPPINGS = {
    "CogViewGenerate": CogViewGenerate,
    "CogViewEdit": CogViewEdit,
    "CogViewUpscale": CogViewUpscale,
    "CogViewCaption": CogViewCaption,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "CogViewGenerate": "cogview: generate",
    "CogViewEdit": "cogview: edit",
    "CogViewUpscale": "cogview: enlarge",
    "CogViewCaption": "cogview: describe",
}
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
