"""Points that differ: listed, exported, repaired, and verified again."""

import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from qdrant_client import QdrantClient, models

from qferry.cli.export import exporting
from qferry.cli.output import Stop
from qferry.flows.differences import Difference

Qferry = Any


@pytest.fixture
def unequal(qferry: Qferry, client: QdrantClient, source: str, target: str) -> str:
    """Give the source of a copied migration; on the target one point is missing, one extra and one changed."""
    assert qferry("start", source).exit_code == 0
    assert qferry("backfill", source).exit_code == 0
    client.delete(target, [3], wait=True)
    wrong = [models.PointStruct(id=i, vector=[1, 2, 3, 4], payload={"group": 6.0}) for i in (6, 1000)]
    client.upsert(target, wrong, wait=True)
    return source


def lines(text: str) -> dict[int, Any]:
    """Return the lines of an export, by id."""
    return {line["id"]: line for line in map(orjson.loads, text.splitlines())}


def test_differences_are_listed_exported_repaired_and_verified_again(
    qferry: Qferry, unequal: str, tmp_path: Path
) -> None:
    """What a person does after a verification that failed."""
    file = tmp_path / "differences.jsonl"
    failed = qferry("verify", unequal, "--export", str(file))
    assert failed.exit_code == 1
    for words in ("3: missing on the target", "1000: extra on the target", "6: payload field group, vector"):
        assert words in failed.stdout
    found = lines(file.read_text())
    assert {i: line["what"] for i, line in found.items()} == {
        3: ["missing on the target"],
        6: ["payload field group", "vector"],
        1000: ["extra on the target"],
    }
    assert found[6]["source"]["payload"] == {"group": 6}
    assert '"group":6.0' in file.read_text()
    assert found[3]["target"] is None
    assert file.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [file]
    # They are known afterwards too.
    status = qferry("status", unequal)
    assert "3: missing on the target" in status.stdout
    data = qferry("status", unequal, "--json").json["migrations"][0]["comparison"]
    assert {d["id"]: d["what"] for d in data["differences"]} == {i: line["what"] for i, line in found.items()}
    assert (data["differing"], data["points"], data["ranges_left"]) == (3, 120, 0)
    repaired = qferry("verify", unequal, "--repair", "--export", str(file))
    assert repaired.exit_code == 0
    assert file.read_text() == ""
    assert qferry("verify", unequal).exit_code == 0
    assert "missing on the target" not in qferry("status", unequal).stdout


def test_differences_go_to_stdout_and_the_table_to_stderr(qferry: Qferry, unequal: str) -> None:
    """So that they can be piped."""
    found = qferry("verify", unequal, "--export", "-")
    assert found.exit_code == 1
    assert sorted(lines(found.stdout)) == [3, 6, 1000]
    assert "every point" in found.stderr


def test_json_has_the_differences(qferry: Qferry, unequal: str) -> None:
    """The same as a file would have."""
    found = qferry("verify", unequal, "--json").json
    assert sorted(found["differing"]) == [3, 6, 1000]
    assert {d["id"] for d in found["differences"]} == {3, 6, 1000}


def test_file_that_cannot_be_written_is_refused_before_anything_is_done(
    qferry: Qferry, unequal: str, tmp_path: Path
) -> None:
    """A verification may take hours."""
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    kept.chmod(0o400)
    bad = [tmp_path, tmp_path / "absent" / "file", "/dev/null", tmp_path / "a\0b"]
    bad += [kept] if os.geteuid() else []
    before = qferry("history", unequal, "--json").json
    for path in bad:
        refused = qferry("verify", unequal, "--export", str(path))
        assert refused.exit_code == 2, path
        assert "cannot be written to" in refused.stderr
        assert refused.stdout == ""
    assert qferry("history", unequal, "--json").json == before
    assert list(tmp_path.iterdir()) == [kept]
    assert kept.read_text() == "as it was"


def test_link_to_a_file_stays_one(tmp_path: Path) -> None:
    """What it leads to is replaced, wherever that is, and whether or not it is there yet."""
    (tmp_path / "elsewhere").mkdir()
    file, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    link.symlink_to(file)
    for difference in (Difference(1, ("payload",), {}, {}), Difference(2, ("payload",), {}, {})):
        with exporting(str(link), as_json=False) as write:
            write([difference])
        assert link.is_symlink()
        assert orjson.loads(file.read_text())["id"] == difference.id
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("to", "why"), [("", "names no file"), ("/dev/null", "would have to be replaced"), ("/", "it is a folder")]
)
def test_what_is_no_file_is_refused_by_name(to: str, why: str) -> None:
    """An empty variable of a script's, say."""
    with pytest.raises(Stop, match=why), exporting(to, as_json=False):
        pass


def test_stdout_is_not_shared(qferry: Qferry, unequal: str) -> None:
    """One JSON object, or lines; not both."""
    refused = qferry("verify", unequal, "--export", "-", "--json")
    assert refused.exit_code == 2
    assert "both want stdout" in refused.json["error"]["message"]


def test_file_stays_as_it_was_when_the_command_fails(qferry: Qferry, source: str, tmp_path: Path) -> None:
    """Whole, or not at all; and nothing is left beside it."""
    file = tmp_path / "differences.jsonl"
    file.write_text("of the last time")
    assert qferry("start", source).exit_code == 0
    assert qferry("verify", source, "--export", str(file)).exit_code == 1  # out of order: nothing is copied yet
    assert file.read_text() == "of the last time"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("number", ["-1", "many", "10001"])
def test_number_of_queries_must_be_one(qferry: Qferry, number: str) -> None:
    """And not more than can be meant."""
    refused = qferry("verify", "--queries", number)
    assert refused.exit_code == 2
    assert "--queries" in refused.stderr


def test_searches_left_out_are_not_proven(qferry: Qferry, source: str) -> None:
    """The next command is the one that compares them."""
    qferry("start", source)
    qferry("backfill", source)
    found = qferry("verify", source, "--queries", "0")
    assert found.exit_code == 0
    assert f"Next: qferry verify {source}" in found.stdout
    assert "searches not proven" in qferry("status", source).stdout
    refused = qferry("switch", source, "--percent", "10")
    assert refused.exit_code == 1
    assert "qferry verify" in refused.stderr
