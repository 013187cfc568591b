"""`qferry plan` over a server on which everything that can be found there is found."""

import re
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from qferry.server import QdrantServer

LEGACY = [f"project_service-{n}_code" for n in range(20)]  # dashes, as given
UNDERSCORED = ["project_my_old_tool_code", "project_Search.API_code", "project_a_code_code", "project_Müller 2_code"]
CANONICAL = [f"project-team-{n}" for n in range(10)]
OVERRIDDEN = {"BILLING": "invoices", "ODD_NAME": "project_odd.name_code"}
NOBODYS = ["notes", "images-2024", "project", "project_", "_code", "project__code", "code", "Project_x_Code", "日本語"]
NOBODYS += [f"rag-{n}" for n in range(5)]


@pytest.fixture
def server(fresh_qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> QdrantClient:
    """Give a client of a server with fifty collections of every kind, which the command is pointed at."""
    client = QdrantClient(url=fresh_qdrant.url, check_compatibility=False)
    for name in [*LEGACY, *UNDERSCORED, *CANONICAL, *OVERRIDDEN.values(), *NOBODYS]:
        client.create_collection(name, {}, optimizers_config=models.OptimizersConfigDiff(default_segment_number=1))
    assert len(client.get_collections().collections) == 50
    monkeypatch.setenv("QDRANT_URL", fresh_qdrant.url)
    for project, collection in OVERRIDDEN.items():
        monkeypatch.setenv(f"COLLECTION_NAME_OVERRIDE_{project}", collection)
    return client


@pytest.mark.slow
def test_plan_finds_every_legacy_name_among_fifty_collections(qferry: Any, server: QdrantClient) -> None:
    """Each legacy name gets its canonical one, other names are left alone, and two that would mix are refused."""
    survey = qferry("plan", "--json").json
    assert survey["collections"] == 50
    proposals = {proposal["source"]: proposal["target"] for proposal in survey["proposals"]}
    assert proposals == {
        **{name: f"project-{name[8:-5]}" for name in LEGACY},
        "project_my_old_tool_code": "project-my-old-tool",
        "project_Search.API_code": "project-search-api",
        "project_a_code_code": "project-a-code",
        "project_Müller 2_code": "project-mller-2",
    }
    assert not any(proposal["target_exists"] for proposal in survey["proposals"])
    server.create_collection("project_Service 7_code", {})
    refused = qferry("plan", "--json")
    assert refused.exit_code == 1
    for both in ("project_Service 7_code", "project_service-7_code"):
        assert both in refused.json["error"]["message"]
    server.delete_collection("project_Service 7_code")
    server.create_collection("project-service-7", {})
    (occupied,) = [p for p in qferry("plan", "--json").json["proposals"] if p["target_exists"]]
    assert occupied["source"] == "project_service-7_code"
    server.close()


def test_a_change_that_needs_no_migration_is_said_to_be_one(qferry: Any, source: str, client: QdrantClient) -> None:
    """The call that is shown does it: the server takes it, and the collection is configured like that afterwards."""
    settings = (
        "hnsw_config.m=32",
        "on_disk_payload=true",
        "optimizers_config.indexing_threshold=12345",
        'quantization_config={"scalar": {"type": "int8"}}',
        "strict_mode_config.max_query_limit=5000",
        "write_consistency_factor=2",
    )
    told = qferry("plan", source, *(word for setting in settings for word in ("--set", setting))).stdout
    method, path, body = re.search(r"^ *(PATCH) (\S+) (\{.+\})$", told, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert client.http.client.request(type_=object, method=method, url=path, content=body)["result"] is True
    config = client.get_collection(source).config
    assert (config.hnsw_config.m, config.params.on_disk_payload) == (32, True)
    assert (config.optimizer_config.indexing_threshold, config.params.write_consistency_factor) == (12345, 2)
    assert config.quantization_config is not None
    assert config.strict_mode_config is not None
    assert config.strict_mode_config.max_query_limit == 5000
    in_place = qferry("plan", source, "--set", "hnsw_config.m=32", "--json").json["in_place"]
    assert in_place == {"hnsw_config": {"m": 32}}
    for settings in ((), ("--set", "shard_number=2"), ("--set", "shard_number=2", "--set", "hnsw_config.m=32")):
        assert qferry("plan", source, *settings, "--json").json["in_place"] is None
