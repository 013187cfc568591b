"""Tests of what qferry shows to the outside, and of the direction in which its parts know each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import qferry

ROOT = Path(qferry.__file__).parent

# From the ground up: a module may import what stands on its own line or on a line above it.  The effects are the
# vocabulary in which records are asked for, so they come before `control`, though they live with the flows.
LAYERS: list[set[str]] = [
    {"errors", "logs"},
    {"naming", "protocol", "transfer.fidelity"},
    {"flows.effects"},
    {"control"},
    {"flows"},
    {"transfer"},
    {"options", "callers", "drivers", "tracing"},
    {"clients"},
    {"connection"},
    {"dask_crew"},
    {"planning"},
    {"preflight"},
    {"commands"},
    {"consequences"},
    {"server", "exporter"},
    {"cli", "demo", "mcp", "web", "indexer", "__main__"},
]
# What the pure part may use: no clock, no network, no threads, no client.
PURE = {
    "__future__",
    "collections",
    "contextvars",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "itertools",
    "math",
    "re",
    "typing",
    "uuid",
}
PURE |= {"qferry.errors", "qferry.protocol"}
# What flows may not use, directly: they ask their driver instead.
IMPURE = {"asyncio", "concurrent", "httpx", "os", "random", "requests", "socket", "threading", "time"}
# It tells errors apart by their classes, some of which are the HTTP library's.
EXCEPTED = {("flows.fate", "httpx")}


def modules() -> Iterator[tuple[str, Path]]:
    """Give the modules of the package, by their names without `qferry.`."""
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if name:
            yield name, path


def imports(path: Path) -> Iterator[str]:
    """Give the full names of what a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name: str) -> int | None:
    """Return the layer of a module; of the most specific entry that names it."""
    for parts in range(name.count(".") + 1, 0, -1):
        prefix = ".".join(name.split(".")[:parts])
        for index, members in enumerate(LAYERS):
            if prefix in members:
                return index
    return None


MODULES = dict(modules())


def test_public_names_are_these() -> None:
    """A name is added to, or taken from, the public surface on purpose only."""
    assert qferry.__all__ == [
        "AsyncFerryClient",
        "Conflict",
        "DataMismatch",
        "FerryClient",
        "FerryError",
        "FerryOptions",
        "InvalidName",
        "LeaseLost",
        "Misuse",
        "NotAllowed",
        "Refused",
        "Rejected",
        "RemoteFailure",
        "TargetWriteFailed",
        "Unreachable",
        "caller",
    ]
    assert all(hasattr(qferry, name) for name in qferry.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_only_from_layers_below(name: str) -> None:
    """`protocol` knows nobody, `commands` knows all but its adapters."""
    own = layer(name)
    assert own is not None, f"give qferry.{name} a place in LAYERS"
    for imported in imports(MODULES[name]):
        if not imported.startswith("qferry."):
            continue
        # A name imported from `qferry` itself is a client's, or of a layer below.
        theirs = layer("clients" if imported.removeprefix("qferry.") in qferry.__all__ else imported[len("qferry.") :])
        assert theirs is not None, imported
        assert theirs <= own, f"qferry.{name} imports {imported}"


# The adapters whose packages are extras, the command that imports each when it runs, and those packages.
EXTRAS: dict[str, tuple[str, set[str]]] = {
    "mcp": ("cli.mcp", {"mcp", "mcp_types", "uvicorn", "anyio"}),
    "web": ("cli.ui", {"starlette", "uvicorn", "jinja2", "markupsafe"}),
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_extras_are_imported_by_nobody_else(extra: str) -> None:
    """Without its packages everything else works: only its command names an adapter, and only that names them."""
    command, packages = EXTRAS[extra]
    for name, path in MODULES.items():
        own = name.split(".")[0]
        if own == extra:
            continue
        for imported in imports(path):
            of_another = own in EXTRAS and imported.split(".")[0] in EXTRAS[own][1]
            assert imported.split(".")[0] not in packages or of_another, f"qferry.{name}: {imported}"
            assert not imported.startswith(f"qferry.{extra}") or name == command, name


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] == "protocol"])
def test_protocol_is_pure(name: str) -> None:
    """No I/O, no clock, no client: time, ids and randomness arrive as arguments."""
    for imported in imports(MODULES[name]):
        parts = imported.split(".")
        assert parts[0] in PURE or ".".join(parts[:2]) in PURE, imported


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] in ("flows", "control")])
def test_flow_touches_the_world_through_effects_alone(name: str) -> None:
    """What runs under the simulator is what ships."""
    for imported in imports(MODULES[name]):
        library = imported.split(".")[0]
        assert library not in IMPURE or (name, library) in EXCEPTED, imported
        assert imported not in ("qdrant_client.QdrantClient", "qdrant_client.AsyncQdrantClient")


def test_layers_name_no_module_that_is_gone_from_the_ground_floor() -> None:
    """The lower layers exist as they are drawn; adapters may come later."""
    top_level = {name.split(".")[0] for name in MODULES} | {"flows.effects", "transfer.fidelity"}
    assert set.union(*LAYERS[:-1]) <= top_level
