"""An exported folder; its graphs are opened at first use."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cogview.errors import CogViewError
from cogview.onnx.draws import Floats
from cogview.onnx.manifest import Manifest, TransformerFiles
from cogview.threads import choose
from cogview.tokenizers.text import TextTokenizer
from cogview.types import Ids

Feed = dict[str, NDArray[Any]]


class Exported:
    """A folder that was written by ``cogview export onnx``.

    Args:
        threads: default: what the container and other programs leave (``cogview.threads``).

    Raises:
        CogViewError: the folder is not an exported model, or ONNX Runtime is not installed.
    """

    def __init__(self, folder: Path | str, threads: int | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise CogViewError("ONNX Runtime is not installed: pip install onnxruntime") from error
        self._runtime, self._options = onnxruntime, onnxruntime.SessionOptions()
        self.version = f"onnxruntime {onnxruntime.__version__}"
        self._options.intra_op_num_threads = threads or choose().threads
        self._options.log_severity_level = 3
        self._transformers: dict[str, TransformerSession] = {}

    def open(self, graph: str, weights: str | None = None) -> Any:
        """Open a session of a graph; raises CogViewError if its files are damaged."""
        path = self.manifest.checked(self.folder, graph, *([weights] if weights else []))
        try:
            return self._runtime.InferenceSession(path, self._options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions cannot be imported by name
            reason = " ".join(str(error).split())
            raise CogViewError(f"{path}: ONNX Runtime cannot read it ({reason:.200})") from error

    def transformer(self, role: str) -> TransformerSession:
        """The transformer of a role; opened once."""
        if role not in self._transformers:
            self._transformers[role] = TransformerSession(self, self.manifest.transformers[role])
        return self._transformers[role]

    @cached_property
    def text_tokenizer(self) -> TextTokenizer:
        """The text tokenizer."""
        path = self.manifest.checked(self.folder, self.manifest.text)
        return TextTokenizer.from_file(path, self.manifest.family.newline)

    @cached_property
    def clusters(self) -> Ids | None:
        """(codes,) int64, the cluster of each image code; None if the family has no clusters."""
        clusters = self.manifest.clusters
        return None if clusters is None else np.array(clusters, dtype=np.int64)

    # ----------------------------------------------------------------------------------------- images

    def decode(self, codes: Ids) -> Floats:
        """Decode codes (rows, columns) to an image (3, H, W), nominally in [0, 1]."""
        image: Floats = self._decoder.run(None, {"codes": codes[None].astype(np.int32)})[0][0]
        return image

    def encode(self, pixels: Floats) -> tuple[Floats, Ids]:
        """Encode an image (3, H, W) in [0, 1] to vectors (rows, columns, dim) and codes (rows, columns)."""
        vectors, codes = self._encoder.run(["vectors", "codes"], {"images": pixels[None]})
        return vectors[0], codes[0].astype(np.int64)

    def distances(self, vectors: Floats) -> Floats:
        """Squared distances (m, codes) of vectors (m, dim) to every code."""
        distances: Floats = self._distances.run(None, {"vectors": vectors})[0]
        return distances

    @cached_property
    def _decoder(self) -> Any:
        return self._image(self.manifest.image.decoder)

    @cached_property
    def _encoder(self) -> Any:
        return self._image(self.manifest.image.encoder)

    @cached_property
    def _distances(self) -> Any:
        return self._image(self.manifest.image.distances)

    def _image(self, graph: str) -> Any:
        return self.open(graph, graph.removesuffix(".onnx") + ".bin")


class TransformerSession:
    """The opened graphs of a transformer; ``files`` holds its shape."""

    def __init__(self, exported: Exported, files: TransformerFiles) -> None:
        self.files, self._exported = files, exported
        self._graph = exported.open(files.graph, files.weights)
        self._heads: dict[str, Any] = {}
        caches = [f"{kind}.{layer}" for layer in range(files.layers) for kind in ("keys", "values")]
        self._outputs = ["hidden", *(f"new_{name}" for name in caches)]
        self.caches = caches

    def run(self, feed: Feed) -> tuple[Floats, dict[str, Floats]]:
        """Run the graph; returns hidden states (rows, tokens, h), and new keys and values by cache name."""
        hidden, *new = self._graph.run(self._outputs, feed)
        return hidden, dict(zip(self.caches, new, strict=True))

    def forward(self, ids: Ids, positions: Ids, mask: NDArray[np.bool_]) -> Floats:
        """Hidden states (tokens, h) of one complete sequence, without a cache.

        Args:
            ids, positions: (tokens,).
            mask: (tokens, tokens), True where a query attends to a key.
        """
        files, bias = self.files, np.full((1, len(ids), 1 + len(ids)), -np.inf, dtype=np.float32)
        bias[0, :, 1:][mask] = 0
        shape = (1, files.attention_heads, files.head_dim, 1)  # a cache with one masked slot
        empty = np.zeros(shape, dtype=np.float32)
        feed = {name: empty if name.startswith("keys") else empty.swapaxes(2, 3) for name in self.caches}
        feed |= {"ids": ids[None].astype(np.int32), "positions": positions[None].astype(np.int32)}
        hidden: Floats = self._graph.run(["hidden"], feed | {"mask": bias})[0][0]
        return hidden

    def logits(self, head: str, hidden: Floats) -> Floats:
        """Logits (m, ids) of a head for hidden states (m, h)."""
        if head not in self._heads:
            self._heads[head] = self._exported.open(self.files.heads[head].graph)
        logits: Floats = self._heads[head].run(None, {"hidden": hidden})[0]
        return logits

    def first_id(self, head: str) -> int:
        """The id of a head's first column."""
        return self.files.heads[head].first
