"""Settings from the environment: what is needed, what is optional, and what cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from code_search.errors import SettingsInvalid
from code_search.settings import Settings
from qferry import FerryOptions, Misuse
from qferry.errors import InvalidName

ALL = {
    "QDRANT_URL": "https://qdrant:6333",
    "QDRANT_API_KEY": "secret",
    "QDRANT_GRPC_PORT": "6334",
    "PROJECT_NAME": "My Project",
    "PROJECT_ROOT": "/code",
    "CODE_SEARCH_ALLOWED_HOSTS": "search.example.com, 10.0.0.7:8000,",
    "CODE_SEARCH_MODEL": "BAAI/bge-small-en-v1.5",
    "COLLECTION_NAME_TEMPLATE": "code-{name}",
    "ENABLE_DUAL_WRITE": "true",
    "ENABLE_NEW_READS": "false",
}


def test_every_variable_is_read() -> None:
    """Each one of them arrives where it belongs."""
    settings = Settings.from_environ(ALL)
    assert (settings.qdrant_url, settings.qdrant_api_key) == ("https://qdrant:6333", "secret")
    assert settings.grpc_port == 6334
    assert (settings.project, settings.root, settings.model) == ("My Project", Path("/code"), "BAAI/bge-small-en-v1.5")
    assert settings.allowed_hosts == ("search.example.com", "10.0.0.7:8000")
    assert settings.naming.canonical(settings.project) == "code-my-project"
    assert settings.ferry == FerryOptions(dual_write=True, new_reads=False)


def test_only_the_project_must_be_set() -> None:
    """Everything else has a default, and an empty variable counts as unset."""
    expected = Settings(project="p")
    assert Settings.from_environ({"PROJECT_NAME": "p"}) == expected
    assert Settings.from_environ({**dict.fromkeys(ALL, ""), "PROJECT_NAME": "p"}) == expected


@pytest.mark.parametrize("environ", [{}, {"PROJECT_NAME": ""}, {"PROJECT_ROOT": "/app"}])
def test_project_is_not_guessed(environ: dict[str, str]) -> None:
    """Its folder is called the same in every container; the message says what to do."""
    with pytest.raises(SettingsInvalid, match="PROJECT_NAME is not set"):
        Settings.from_environ(environ)


def test_unusable_values_are_refused_at_once() -> None:
    """Before anything is sent, in the words of what refuses them."""
    with pytest.raises(InvalidName, match="中文"):
        Settings.from_environ({"PROJECT_NAME": "中文"})
    with pytest.raises(Misuse, match="ENABLE_NEW_READS"):
        Settings.from_environ({"PROJECT_NAME": "p", "ENABLE_NEW_READS": "perhaps"})


@pytest.mark.parametrize("port", ["yes", "-1", "65536", "6334.0", "qdrant:6334"])
def test_what_is_no_port_is_refused(port: str) -> None:
    """With what the variable takes; 0 is for REST, as it is for qferry's own command."""
    with pytest.raises(SettingsInvalid, match="usually 6334"):
        Settings.from_environ({"PROJECT_NAME": "p", "QDRANT_GRPC_PORT": port})
    assert Settings.from_environ({"PROJECT_NAME": "p", "QDRANT_GRPC_PORT": "0"}) == Settings(project="p")


def test_key_is_not_shown() -> None:
    """Settings may be logged."""
    assert "secret" not in repr(Settings.from_environ(ALL))


async def test_client_is_as_the_settings_say() -> None:
    """It takes part in migrations, with the process's own pins."""
    settings = Settings.from_environ({"PROJECT_NAME": "p", "ENABLE_DUAL_WRITE": "false"})
    client = settings.client()
    assert client.ferry_options == FerryOptions(dual_write=False)
    assert not client.init_options["prefer_grpc"]
    await client.close()


async def test_client_prefers_grpc_where_a_port_is_told() -> None:
    """On that port, and only then: a server may well be reached by REST alone."""
    client = Settings(project="p", grpc_port=6335).client()
    assert (client.init_options["prefer_grpc"], client.init_options["grpc_port"]) == (True, 6335)
    await client.close()
