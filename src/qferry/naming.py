"""
The collection names of ADR-0039: from a project to its collection and back.

A project's collection is `project-{name}`, its name sanitised to `a-z 0-9 -`. Letters outside ASCII are
dropped, not transliterated (`Müller` → `mller`): a sanitised name has as many bytes as characters and never
depends on a Unicode version. A project without an ASCII letter or digit (`中文`) therefore needs an override.
Too long a name is refused, not cut: projects with the same beginning would share a collection.

Overrides: project `my.proj-x` reads `COLLECTION_NAME_OVERRIDE_MY.PROJ_X` (the rule: upper case, `-` → `_`)
and, if that is not set, `COLLECTION_NAME_OVERRIDE_MY_PROJ_X` (the sanitised name), which every shell can set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from qferry.errors import InvalidName

__all__ = ["CollectionNaming", "Proposal", "check_collection_name", "sanitise"]

DEFAULT_TEMPLATE = "project-{name}"
TEMPLATE_VARIABLE = "COLLECTION_NAME_TEMPLATE"
OVERRIDE_PREFIX = "COLLECTION_NAME_OVERRIDE_"
LEGACY_LOOKUP_VARIABLE = "COLLECTION_LEGACY_LOOKUP"

# Qdrant 1.16.3 counts characters; beyond 255 bytes it answers 500, because the name is also a directory's.
MAX_LENGTH = 255
# Surrogates, as `os.environ` holds for bytes that are not UTF-8, cannot be sent at all.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00\x1f\ud800-\udfff]')
# Matched in full, so that only the last `_code` is the suffix: `project_a_code_code` is `a_code`.
_LEGACY = re.compile(r"project_(.+)_code", re.DOTALL)
_HINT = f"Choose another name, or set {OVERRIDE_PREFIX}<NAME> to the project's collection."
_SWITCH = {"true": True, "1": True, "false": False, "0": False}


def check_collection_name(name: str) -> None:
    r"""
    Refuse a name under which the server cannot safely create a collection.

    Args:
        name: 1..255 characters and bytes, without `< > : " / \ | ? *`, NUL and U+001F; not `.` or `..`.

    Raises:
        InvalidName: the name breaks one of these rules.

    Source: Qdrant 1.16.3, observed. It accepts `..`, which is the parent directory of all collections.
    """
    if not name:
        reason = "is empty"
    elif name in (".", ".."):
        reason = "is a directory of the server, not a name"
    elif found := _FORBIDDEN.search(name):
        reason = f"contains {found[0]!r}, which no server accepts"
    elif (size_bytes := len(name.encode())) > MAX_LENGTH:  # never fewer than characters
        reason = f"has {len(name)} characters in {size_bytes} bytes, and {MAX_LENGTH} of either are allowed"
    else:
        return
    raise InvalidName(f"The collection name {name!r} {reason}.", hint=_HINT, names=(name,))


def sanitise(name: str) -> str:
    """
    Reduce a project's name to lower-case ASCII letters, digits and single inner hyphens.

    Args:
        name: Any text. Whitespace, dots and underscores become hyphens; all other characters are dropped.

    Returns:
        1..255 characters, which are as many bytes; sanitising them again changes nothing.

    Raises:
        InvalidName: nothing is left, or more than 255 characters are.
    """
    reduced = _reduce(name)
    if not reduced:
        problem = f"The project name {name!r} has no ASCII letter or digit to make a collection name of."
    elif len(reduced) > MAX_LENGTH:
        problem = f"The project name {name!r} has {len(reduced)} usable characters; {MAX_LENGTH} are allowed."
    else:
        return reduced
    raise InvalidName(problem, hint=_HINT, names=(name,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """
    One collection that should get its project's canonical name.

    Args:
        source: The collection's present name.
        target: The canonical name.
        project: The project, spelled as in the present name.
        target_exists: A collection has that name already; you must find out whose points it holds first.
    """

    source: str
    target: str
    project: str
    target_exists: bool


@dataclass(frozen=True)
class CollectionNaming:
    """
    The naming rules of one deployment.

    Args:
        template: The canonical name, with `{name}` exactly once.
        overrides: Collection by project, the project spelled as such or as in its variable.
        legacy_lookup: Whether lookups also try the legacy names; off once the migration is over.

    Raises:
        InvalidName: the template or an override cannot be used, or two projects are given one collection.
    """

    template: str = DEFAULT_TEMPLATE
    overrides: Mapping[str, str] = field(default_factory=dict, hash=False)
    legacy_lookup: bool = True

    def __post_init__(self) -> None:
        if re.fullmatch(r"[^{}]*\{name\}[^{}]*", self.template) is None:
            problem = f"The template {self.template!r} must contain {{name}} once and no other brace."
            hint = f"Set {TEMPLATE_VARIABLE} to something like {DEFAULT_TEMPLATE!r}."
            raise InvalidName(problem, hint=hint, names=(self.template,))
        check_collection_name(self.template)
        by_key: dict[str, str] = {}
        for project, collection in self.overrides.items():
            key = _override_key(project)
            if not key:
                problem = f"The override to {collection!r} names no project."
                raise InvalidName(problem, hint=f"Write {OVERRIDE_PREFIX}<NAME>.", names=(collection,))
            check_collection_name(collection)
            if (other := by_key.setdefault(key, collection)) != collection:
                problem = f"{OVERRIDE_PREFIX}{key} is set twice, to {other!r} and to {collection!r}."
                raise InvalidName(problem, hint="Keep one of them.", names=(other, collection))
        _refuse_shared("The overrides", by_key.items())
        object.__setattr__(self, "overrides", by_key)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> CollectionNaming:
        """
        Read the rules from environment variables; an empty variable counts as unset.

        Args:
            environ: `COLLECTION_NAME_TEMPLATE`, `COLLECTION_NAME_OVERRIDE_<NAME>` and
                `COLLECTION_LEGACY_LOOKUP` (true or false); all other variables are ignored.

        Raises:
            InvalidName: one of them has a value that cannot be used.
        """
        switch = environ.get(LEGACY_LOOKUP_VARIABLE) or "true"
        if switch.lower() not in _SWITCH:
            problem = f"{LEGACY_LOOKUP_VARIABLE} is {switch!r}, which is neither on nor off."
            raise InvalidName(problem, hint="Set it to true or false.", names=(LEGACY_LOOKUP_VARIABLE,))
        return cls(
            template=environ.get(TEMPLATE_VARIABLE) or DEFAULT_TEMPLATE,
            overrides={
                variable.removeprefix(OVERRIDE_PREFIX): collection
                for variable, collection in environ.items()
                if variable.startswith(OVERRIDE_PREFIX) and collection
            },
            legacy_lookup=_SWITCH[switch.lower()],
        )

    def canonical(self, project: str) -> str:
        """
        Return the collection a project should have: its override, or the template filled in.

        Raises:
            InvalidName: the project has no override, and its name makes no valid collection name or one that
                another project is given by its override.
        """
        for key in (_override_key(project), _override_key(_reduce(project))):
            if key in self.overrides:
                return self.overrides[key]
        name = self.template.replace("{name}", sanitise(project))
        check_collection_name(name)
        _refuse_shared("The projects", (*self.overrides.items(), (project, name)))
        return name

    def canonical_names(self, projects: Iterable[str]) -> dict[str, str]:
        """
        Return the canonical name of each project.

        Raises:
            InvalidName: as for `canonical`, or two projects would share a collection; it names both.
        """
        names = {project: self.canonical(project) for project in projects}
        _refuse_shared("The projects", names.items())
        return names

    def legacy(self, project: str) -> tuple[str, ...]:
        """
        Return the names `project_{name}_code` under which a project may still be found.

        Returns:
            With the name as given, with all its separators as underscores, and sanitised; each once, in
            that order, without those that no server accepts.
        """
        spellings = (project, re.sub(r"[\s.-]", "_", project), _reduce(project))
        return _valid_once(f"project_{spelling}_code" for spelling in spellings if spelling)

    def possible(self, project: str) -> tuple[str, ...]:
        """
        Return all names to look a project up by, the one to prefer first.

        Returns:
            The canonical name, the legacy names unless switched off, and the project's own name; each once.

        Raises:
            InvalidName: as for `canonical`.
        """
        legacy = self.legacy(project) if self.legacy_lookup else ()
        return _valid_once((self.canonical(project), *legacy, project))

    def project_of(self, collection: str) -> str | None:
        """
        Parse a collection's name back to its project.

        Returns:
            Lower case with hyphens for an override, sanitised for a canonical name, as spelled in a legacy
            name (also with legacy lookup off: leftovers must still be found); otherwise None.
        """
        for key, override in self.overrides.items():
            if override == collection:
                return key.lower().replace("_", "-")
        prefix, _, suffix = self.template.partition("{name}")
        if collection.startswith(prefix) and collection.endswith(suffix):
            name = collection[len(prefix) : len(collection) - len(suffix)]
            if name and name == _reduce(name):
                return name
        legacy = _LEGACY.fullmatch(collection)
        return legacy[1] if legacy else None

    def needs_migration(self, collection: str) -> bool:
        """
        Tell whether a collection belongs to a project but does not have that project's canonical name.

        Raises:
            InvalidName: it belongs to a project that can have no canonical name without an override.
        """
        project = self.project_of(collection)
        return project is not None and self.canonical(project) != collection

    def proposals(self, collections: Iterable[str]) -> list[Proposal]:
        """
        Propose the canonical name for each collection of a server that has another one.

        Args:
            collections: All collections of the server; those that belong to no project are left alone.

        Raises:
            InvalidName: as for `needs_migration`, or two collections would get the same name; it names both.
        """
        present = dict.fromkeys(collections)
        found = []
        for source in present:
            project = self.project_of(source)
            if project is not None and (target := self.canonical(project)) != source:
                exists = target in present
                found.append(Proposal(source=source, target=target, project=project, target_exists=exists))
        _refuse_shared("The collections", ((proposal.source, proposal.target) for proposal in found))
        return found


def _reduce(name: str) -> str:
    """Sanitise without judging the result, which may be empty or too long."""
    # Dropped before lowered: the Kelvin sign lowers to an ASCII k, which would keep a character that must go.
    ascii_only = re.sub(r"[^A-Za-z0-9-]", "", re.sub(r"[\s._]", "-", name))
    return re.sub("-+", "-", ascii_only).strip("-").lower()


def _override_key(project: str) -> str:
    """Spell a project as in its override variable."""
    # Lowered first so that a key survives being lowered and raised again (ẞ → ß → SS).
    return project.lower().upper().replace("-", "_")


def _valid_once(names: Iterable[str]) -> tuple[str, ...]:
    """Drop repetitions and the names that cannot belong to any collection."""
    kept = []
    for name in dict.fromkeys(names):
        try:
            check_collection_name(name)
        except InvalidName:
            continue  # asking the server for it would be an error instead of "not found"
        kept.append(name)
    return tuple(kept)


def _refuse_shared(what: str, targets: Iterable[tuple[str, str]]) -> None:
    """Refuse two names that lead to the same collection."""
    owners: dict[str, str] = {}
    for owner, target in targets:
        if (first := owners.setdefault(target, owner)) != owner:
            problem = f"{what} {first!r} and {owner!r} lead to one collection, {target!r}, and would mix."
            raise InvalidName(problem, hint="Rename one, or name the target of each yourself.", names=(first, owner))
