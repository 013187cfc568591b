"""The whole demo on a real server: a control without a migration, the document's recipe, and qferry."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import orjson
import pytest
from qdrant_client import QdrantClient, models
from rich.console import Console

from qferry.demo import DemoError, DemoOptions, run_demo
from qferry.demo.checker import check
from qferry.demo.content import read_collection
from qferry.demo.fingerprint import Vectors, normalised
from qferry.demo.fleet import Fleet
from qferry.demo.run import SOURCE, TARGET
from qferry.demo.settings import ApplicationSettings
from qferry.demo.stage import Stage
from qferry.server import QdrantServer

INDEXED_POINTS = 200
DIMENSIONS = 16


class HashEmbedder:
    """Gives each text a vector of its own, at no cost."""

    name = "hash"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One normalised vector per text, as rows."""
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
        rows = [np.random.default_rng(seed).standard_normal(DIMENSIONS) for seed in seeds]
        return normalised(np.stack(rows).astype(np.float32))


@pytest.fixture
def screen() -> Console:
    """Give a console whose text the test can read."""
    return Console(file=io.StringIO(), width=200)


def text_of(screen: Console) -> str:
    """Read what was shown on the screen."""
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


@pytest.fixture
def fleet(fresh_qdrant: QdrantServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """Give a fleet of applications with plain clients on one collection, or with qferry's."""
    chunks = [{"path": f"{i}.py", "text": "x" * 100} for i in range(20)]
    (tmp_path / "corpus.json").write_bytes(orjson.dumps(chunks))
    vectors = HashEmbedder().embed([chunk["path"] for chunk in chunks])
    np.savez(tmp_path / "vectors.npz", vectors=vectors, queries=vectors[:3])
    settings = ApplicationSettings(
        process="",
        url=fresh_qdrant.url,
        source=SOURCE,
        target=TARGET,
        naive=getattr(request, "param", "naive") == "naive",
        seed=1,
        indexed_points=INDEXED_POINTS,
        calls_per_s=200.0,
        corpus=str(tmp_path / "corpus.json"),
        vectors=str(tmp_path / "vectors.npz"),
        log="",
    )
    fleet = Fleet(settings, tmp_path)
    yield fleet
    fleet.kill_all()


def create_source(url: str) -> None:
    """Create an empty source collection."""
    client = QdrantClient(url=url, check_compatibility=False)
    params = models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
    client.create_collection(SOURCE, vectors_config=params)
    client.close()


@pytest.mark.slow
@pytest.mark.parametrize("fleet", ["naive", "ferry"], indirect=True)
def test_checker_accepts_heavy_overlapping_traffic_without_a_migration(
    fresh_qdrant: QdrantServer, fleet: Fleet, screen: Console
) -> None:
    """Three processes, one of them killed and replaced, leave nothing that the checker would object to."""
    create_source(fresh_qdrant.url)
    stage = Stage(screen, pause_s=1.5)
    fleet.start(3)
    stage.let_traffic_run("traffic", fleet)
    fleet.kill_one()
    fleet.start()
    stage.let_traffic_run("traffic", fleet)
    fleet.stop()
    calls = fleet.calls()
    verdict = check(calls, {}, read_collection(fresh_qdrant.url, SOURCE))
    assert (verdict.findings, verdict.contradictions, verdict.undecided) == ((), (), ())
    assert [call for call in calls if call.failed] == []
    assert len({call.process for call in calls}) == 4
    assert len(calls) > 200


def test_application_that_ends_by_itself_stops_the_demo_with_its_error(fleet: Fleet, tmp_path: Path) -> None:
    """An application that cannot start is reported with what it wrote to standard error."""
    (tmp_path / "corpus.json").write_text("not json")
    with pytest.raises(DemoError, match=r"app1 ended by itself with exit code 1:(.|\n)*JSONDecodeError"):
        fleet.start()


@pytest.mark.slow
def test_documents_recipe_runs_to_its_end_and_is_found_wanting(
    fresh_qdrant: QdrantServer, screen: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The recipe under the demo's traffic fails calls or leaves wrong points, and the result says so."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = DemoOptions(points=2_000, seconds=10, naive=True, url=fresh_qdrant.url)
    result = run_demo(options, console=screen, embedder=HashEmbedder())
    assert result.mode == "naive"
    assert result.acknowledged_writes > 0
    assert result.reads > 0
    assert not result.passed
    assert list(result.seconds_per_phase) == [
        "chunk the standard library", "embed", "index 2,000 points", "traffic before",
        "dual write", "backfill", "validate", "switch reads", "soak on the new collection", "stop dual write",
        "traffic after", "clean up", "check every point",
    ]  # fmt: skip
    assert "the other 1,700 points are near copies of them" in text_of(screen)
    assert "Not everything is right." in text_of(screen)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_qferry_loses_nothing(
    fresh_qdrant: QdrantServer, screen: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After every phase and two killed processes no call has failed and every point is right."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = DemoOptions(points=2_000, seconds=10, url=fresh_qdrant.url)
    result = run_demo(options, console=screen, embedder=HashEmbedder())
    assert result.mode == "ferry"
    assert result.passed, text_of(screen)


def test_server_that_has_the_collection_is_left_alone(
    fresh_qdrant: QdrantServer, screen: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The demo does not overwrite a collection that it finds on a person's server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    create_source(fresh_qdrant.url)
    with pytest.raises(DemoError, match=f"already has a collection '{SOURCE}'"):
        run_demo(DemoOptions(points=100, url=fresh_qdrant.url), console=screen, embedder=HashEmbedder())
    assert read_collection(fresh_qdrant.url, SOURCE) == {}


def test_too_few_points_are_refused(screen: Console) -> None:
    """A migration of next to nothing shows nothing."""
    with pytest.raises(DemoError, match="at least 100 points"):
        run_demo(DemoOptions(points=5), console=screen)
