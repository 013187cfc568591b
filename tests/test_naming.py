"""Names of collections: from a project to its collection, back again, and refused where they would mix."""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Mapping
from typing import TypeVar

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qferry.errors import InvalidName
from qferry.naming import CollectionNaming, Proposal, check_collection_name, sanitise

T = TypeVar("T")

DEFAULT = CollectionNaming()
SANITISED = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

any_text = st.text(st.characters(), max_size=40)  # every code point, surrogates included
plain_names = st.from_regex(SANITISED, fullmatch=True).filter(lambda name: len(name) <= 60)
projects = st.text(st.sampled_from("aZ0-_. \tüß中\u212a\u0130/"), min_size=1, max_size=20).filter(
    lambda name: re.search("[A-Za-z0-9]", name) is not None
)
templates = st.sampled_from(["project-{name}", "{name}", "{name}_code", "project_{name}", "ü-{name}-v2"])


def is_accepted(name: str) -> bool:
    """Tell whether the name passes the check."""
    try:
        check_collection_name(name)
    except InvalidName:
        return False
    return True


def pickled(value: T) -> T:
    """Send the value through pickle."""
    copy: T = pickle.loads(pickle.dumps(value))
    return copy


# --- sanitise


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("claude-l9-template", "claude-l9-template"),
        ("Claude_L9.Template", "claude-l9-template"),
        ("  a \t b\n", "a-b"),
        ("a\u00a0b\u3000c", "a-b-c"),
        ("--a__..  b--", "a-b"),
        ("a/b&c", "abc"),
        ("a-/-b", "a-b"),
        ("Müller", "mller"),
        ("Mu\u0308ller", "muller"),
        ("中a文", "a"),
        ("\u212aelvin", "elvin"),
        ("\u0130x", "x"),
        ("٣x", "x"),
    ],
)
def test_sanitise_reduces_a_name(name: str, expected: str) -> None:
    """Separators become single inner hyphens, ASCII is lowered, and everything else is dropped."""
    assert sanitise(name) == expected


@given(any_text)
def test_sanitise_gives_a_settled_name_or_refuses(name: str) -> None:
    """A sanitised name has the documented form, is valid, and sanitising it again changes nothing."""
    if re.search("[A-Za-z0-9]", name) is None:
        with pytest.raises(InvalidName):
            sanitise(name)
        return
    result = sanitise(name)
    assert SANITISED.fullmatch(result)
    assert sanitise(result) == result
    assert is_accepted(result)


@pytest.mark.parametrize("name", ["", " ", "-._", "中文", "!!!", "\u212a"])
def test_sanitise_refuses_a_name_of_which_nothing_is_left(name: str) -> None:
    """A name without an ASCII letter or digit is refused, and the message says how to go on."""
    with pytest.raises(InvalidName) as caught:
        sanitise(name)
    assert str(caught.value) == (
        f"The project name {name!r} has no ASCII letter or digit to make a collection name of. "
        "Choose another name, or set COLLECTION_NAME_OVERRIDE_<NAME> to the project's collection."
    )


def test_sanitise_keeps_the_longest_name() -> None:
    """What is dropped does not count towards the 255 characters."""
    assert sanitise("ü" * 300 + "a" * 255 + "---") == "a" * 255


def test_sanitise_refuses_a_longer_name_instead_of_cutting_it() -> None:
    """A name of 256 usable characters is refused, since cutting it could merge two projects."""
    with pytest.raises(InvalidName, match="has 256 usable characters; 255 are allowed"):
        sanitise("a" * 256)


# --- check_collection_name


@pytest.mark.parametrize(
    "name", ["a", "A b.c%~", "...", "-", "\x01", "\x7f", "ü" * 127, "中" * 85, "a" * 255, "project_中文_code"]
)
def test_check_accepts_what_the_server_accepts(name: str) -> None:
    """The check is no stricter than the server it was observed on."""
    check_collection_name(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"),
        (".", "is a directory of the server, not a name"),
        ("..", "is a directory of the server, not a name"),
        *((f"a{sign}b", f"contains {sign!r}, which no server accepts") for sign in '<>:"/\\|?*\x00\x1f\udc80'),
        ("a" * 256, "has 256 characters in 256 bytes, and 255 of either are allowed"),
        ("ü" * 128, "has 128 characters in 256 bytes, and 255 of either are allowed"),
    ],
)
def test_check_refuses_what_the_server_cannot_create(name: str, reason: str) -> None:
    """A refusal gives the name and one reason for it."""
    with pytest.raises(InvalidName) as caught:
        check_collection_name(name)
    assert caught.value.message == f"The collection name {name!r} {reason}."
    assert caught.value.names == (name,)


# --- canonical names and overrides


def test_canonical_fills_in_the_template() -> None:
    """The document's own example gets the document's name."""
    assert DEFAULT.canonical("claude-l9-template") == "project-claude-l9-template"


@given(projects, templates)
@example("\u1e9e1", "{name}")
def test_canonical_name_parses_back_to_the_project(project: str, template: str) -> None:
    """Under any template a canonical name leads back to the sanitised project and needs no migration."""
    naming = CollectionNaming(template)
    collection = naming.canonical(project)
    assert naming.project_of(collection) == sanitise(project)
    assert not naming.needs_migration(collection)


def test_canonical_counts_the_template_too() -> None:
    """The whole name may have 255 characters, of which the template takes its share."""
    assert len(DEFAULT.canonical("a" * 247)) == 255
    with pytest.raises(InvalidName, match="256 characters in 256 bytes"):
        DEFAULT.canonical("a" * 248)


def test_canonical_counts_the_bytes_of_a_unicode_template() -> None:
    """A template outside ASCII takes more bytes than characters."""
    naming = CollectionNaming("ü-{name}")
    assert len(naming.canonical("a" * 252)) == 254
    with pytest.raises(InvalidName, match="255 characters in 256 bytes"):
        naming.canonical("a" * 253)


@pytest.mark.parametrize("template", ["", "project", "{name}-{name}", "{name}-{env}", "{ name }", "{{name}}"])
def test_template_without_one_name_is_refused(template: str) -> None:
    """A template that would merge all projects, or that leaves a brace, is refused."""
    with pytest.raises(InvalidName) as caught:
        CollectionNaming(template)
    assert str(caught.value) == (
        f"The template {template!r} must contain {{name}} once and no other brace. "
        "Set COLLECTION_NAME_TEMPLATE to something like 'project-{name}'."
    )


def test_template_that_makes_no_valid_name_is_refused() -> None:
    """A template with a character that the server refuses fails at once, not at the first project."""
    with pytest.raises(InvalidName, match="contains '/'"):
        CollectionNaming("project/{name}")


@pytest.mark.parametrize(
    ("variable", "project"),
    [
        ("MY_PROJ", "my-proj"),
        ("MY_PROJ", "my_proj"),
        ("MY_PROJ", "My.Proj"),
        ("MY.PROJ_X", "my.proj-x"),
        ("MY_PROJ_X", "my.proj-x"),
        ("A__B", "a--b"),
        ("A_B", "a--b"),
        ("MÜLLER", "Müller"),
        ("MLLER", "Müller"),
        ("中文", "中文"),
        ("STRASSE", "straße"),
        ("my-proj", "my-proj"),
    ],
)
def test_override_is_found_by_either_spelling(variable: str, project: str) -> None:
    """A project reads its variable by the document's rule and by its sanitised name."""
    naming = CollectionNaming.from_environ({f"COLLECTION_NAME_OVERRIDE_{variable}": "special"})
    assert naming.canonical(project) == "special"


def test_override_by_the_rule_wins_over_the_sanitised_spelling() -> None:
    """Two projects that sanitise alike are kept apart by the exact spelling of one of them."""
    naming = CollectionNaming(overrides={"MY.PROJ": "dotted", "MY_PROJ": "hyphened"})
    assert naming.canonical_names(["my.proj", "my-proj"]) == {"my.proj": "dotted", "my-proj": "hyphened"}


@pytest.mark.parametrize("project", ["my-proj-2", "my", "", "中文"])
def test_override_is_ignored_for_another_project(project: str) -> None:
    """An override applies to its own project only, and never to one without a sanitised name."""
    naming = CollectionNaming(overrides={"my-proj": "special", "__": "underscores"})
    if project in ("", "中文"):
        with pytest.raises(InvalidName):
            naming.canonical(project)
    else:
        assert naming.canonical(project) == f"project-{project}"


@given(any_text.filter(bool), st.text(min_size=1, max_size=20).filter(is_accepted))
@example("\u1e9e", "x")
@example("\u0130", "x")
@example("ΑΣ", "x")
def test_override_parses_back_to_a_project_that_has_it(project: str, collection: str) -> None:
    """Whatever the project is called, the project parsed from its override has that override."""
    naming = CollectionNaming(overrides={project: collection})
    assert naming.canonical(project) == collection
    parsed = naming.project_of(collection)
    assert parsed is not None
    assert naming.canonical(parsed) == collection
    assert not naming.needs_migration(collection)
    assert dataclasses.replace(naming) == naming


@pytest.mark.parametrize(
    ("overrides", "message", "names"),
    [
        ({"A": "x/y"}, "The collection name 'x/y' contains '/', which no server accepts.", ("x/y",)),
        ({"": "x"}, "The override to 'x' names no project.", ("x",)),
        ({"a": "x", "A": "y"}, "COLLECTION_NAME_OVERRIDE_A is set twice, to 'x' and to 'y'.", ("x", "y")),
        (
            {"a": "x", "b": "x"},
            "The overrides 'A' and 'B' lead to one collection, 'x', and would mix.",
            ("A", "B"),
        ),
    ],
)
def test_unusable_override_is_refused(overrides: dict[str, str], message: str, names: tuple[str, ...]) -> None:
    """An override that is invalid, nameless, contradictory or shared is refused when the rules are read."""
    with pytest.raises(InvalidName) as caught:
        CollectionNaming(overrides=overrides)
    assert (caught.value.message, caught.value.names) == (message, names)


def test_same_override_in_two_spellings_is_accepted() -> None:
    """Saying the same thing twice is no contradiction."""
    assert CollectionNaming(overrides={"a-b": "x", "A_B": "x"}).overrides == {"A_B": "x"}


def test_overrides_are_copied() -> None:
    """Changing the mapping that was passed in does not change the rules."""
    given_overrides = {"a": "x"}
    naming = CollectionNaming(overrides=given_overrides)
    given_overrides["a"] = "y"
    assert naming.canonical("a") == "x"


# --- the environment


def test_environment_without_variables_gives_the_defaults() -> None:
    """Foreign and empty variables change nothing."""
    environ = {"PATH": "/bin", "COLLECTION_NAME_TEMPLATE": "", "COLLECTION_LEGACY_LOOKUP": ""}
    assert CollectionNaming.from_environ({**environ, "COLLECTION_NAME_OVERRIDE_A": ""}) == DEFAULT


def test_environment_sets_every_rule() -> None:
    """Each of the three variables reaches its rule."""
    environ = {
        "COLLECTION_NAME_TEMPLATE": "code-{name}",
        "COLLECTION_NAME_OVERRIDE_MY_APP": "apps",
        "COLLECTION_LEGACY_LOOKUP": "false",
    }
    expected = CollectionNaming("code-{name}", {"my-app": "apps"}, legacy_lookup=False)
    assert CollectionNaming.from_environ(environ) == expected


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("1", True), ("False", False), ("0", False)])
def test_legacy_switch_is_read(value: str, *, expected: bool) -> None:
    """The switch takes true and false in any case, and their digits."""
    assert CollectionNaming.from_environ({"COLLECTION_LEGACY_LOOKUP": value}).legacy_lookup is expected


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"COLLECTION_LEGACY_LOOKUP": "maybe"},
            "COLLECTION_LEGACY_LOOKUP is 'maybe', which is neither on nor off. Set it to true or false.",
        ),
        (
            {"COLLECTION_NAME_OVERRIDE_": "x"},
            "The override to 'x' names no project. Write COLLECTION_NAME_OVERRIDE_<NAME>.",
        ),
    ],
)
def test_unusable_variable_is_refused(environ: Mapping[str, str], message: str) -> None:
    """A variable whose meaning would have to be guessed is refused."""
    with pytest.raises(InvalidName) as caught:
        CollectionNaming.from_environ(environ)
    assert str(caught.value) == message


# --- legacy names and lookup


@pytest.mark.parametrize(
    ("project", "expected"),
    [
        ("template", ("project_template_code",)),
        ("l9-template", ("project_l9-template_code", "project_l9_template_code")),
        ("L9.a-b", ("project_L9.a-b_code", "project_L9_a_b_code", "project_l9-a-b_code")),
        ("中文", ("project_中文_code",)),
        ("a/b", ("project_ab_code",)),
        ("", ()),
    ],
)
def test_legacy_names_are_given_in_order(project: str, expected: tuple[str, ...]) -> None:
    """As given, underscored, sanitised; each once, and only names that a collection can have."""
    assert DEFAULT.legacy(project) == expected


def test_legacy_names_that_are_too_long_are_left_out() -> None:
    """A name that no collection can have is not looked up, since asking for it would be an error."""
    assert DEFAULT.legacy("a" * 243) == ()
    assert len(DEFAULT.legacy("a" * 242)[0]) == 255


@given(projects)
def test_legacy_names_parse_back_to_the_project(project: str) -> None:
    """Every legacy name leads to the project's canonical name, and needs the migration."""
    for collection in DEFAULT.legacy(project):
        parsed = DEFAULT.project_of(collection)
        assert parsed is not None
        assert sanitise(parsed) == sanitise(project)
        assert DEFAULT.needs_migration(collection)


def test_possible_names_are_canonical_legacy_raw() -> None:
    """A lookup tries the canonical name, then the legacy names, then the bare project."""
    assert DEFAULT.possible("my-app") == (
        "project-my-app",
        "project_my-app_code",
        "project_my_app_code",
        "my-app",
    )


def test_possible_names_lack_the_legacy_ones_when_switched_off() -> None:
    """After the migration only the canonical name and the bare project are tried."""
    assert CollectionNaming(legacy_lookup=False).possible("my-app") == ("project-my-app", "my-app")


def test_possible_names_start_with_the_override() -> None:
    """An override replaces the canonical name, even of a project that has none by itself."""
    naming = CollectionNaming(overrides={"中文": "chinese"})
    assert naming.possible("中文") == ("chinese", "project_中文_code", "中文")


@given(project=projects, template=templates, legacy_lookup=st.booleans())
def test_possible_names_are_distinct_and_valid(project: str, template: str, *, legacy_lookup: bool) -> None:
    """No name is tried twice, and each is one that a collection can have."""
    naming = CollectionNaming(template, legacy_lookup=legacy_lookup)
    names = naming.possible(project)
    assert names[0] == naming.canonical(project)
    assert len(set(names)) == len(names)
    assert all(map(is_accepted, names))


@pytest.mark.parametrize(
    ("collection", "expected"),
    [
        ("project_code_review_code", "code_review"),
        ("project_foo_code_bar_code", "foo_code_bar"),
        ("project_foo_code_code", "foo_code"),
        ("project_My App_code", "My App"),
        ("project_a\nb_code", "a\nb"),
        ("project-foo", "foo"),
        ("project-foo-code", "foo-code"),
    ],
)
def test_project_is_parsed_with_the_suffix_stripped_only_at_the_end(collection: str, expected: str) -> None:
    """A `_code` inside the name and a `-code` at its end belong to the project."""
    assert DEFAULT.project_of(collection) == expected


@pytest.mark.parametrize(
    "collection",
    [
        "foo",
        "foo_code",
        "project_foo",
        "project__code",
        "project-",
        "project-Foo",
        "project-a_b",
        "",
        "_qferry",
    ],
)
def test_project_is_none_for_a_foreign_collection(collection: str) -> None:
    """A collection that these rules could not have named belongs to no project and is left alone."""
    assert DEFAULT.project_of(collection) is None
    assert not DEFAULT.needs_migration(collection)


@given(any_text, templates)
@example("ab", "{name}")
def test_project_is_parsed_from_any_text_without_error(collection: str, template: str) -> None:
    """Parsing never fails: the names come from a server that others use too."""
    naming = CollectionNaming(template)
    project = naming.project_of(collection)
    assert project is None or project in collection


def test_leftovers_are_still_found_with_legacy_lookup_off() -> None:
    """Switching off the lookup does not hide legacy collections from the plan."""
    assert CollectionNaming(legacy_lookup=False).needs_migration("project_foo_code")


def test_legacy_name_kept_by_an_override_needs_no_migration() -> None:
    """An operator may pin a project to its legacy collection."""
    naming = CollectionNaming(overrides={"FOO": "project_foo_code"})
    assert not naming.needs_migration("project_foo_code")
    assert naming.needs_migration("project-foo")


# --- collisions


def test_projects_that_sanitise_alike_are_an_error_naming_both() -> None:
    """Two projects in one collection would mix their points, so neither gets a name."""
    with pytest.raises(InvalidName) as caught:
        DEFAULT.canonical_names(["other", "my_proj", "My.Proj"])
    assert caught.value.names == ("my_proj", "My.Proj")
    assert str(caught.value) == (
        "The projects 'my_proj' and 'My.Proj' lead to one collection, 'project-my-proj', and would mix. "
        "Rename one, or name the target of each yourself."
    )


@given(st.lists(projects, max_size=6))
def test_projects_get_distinct_names_or_an_error_naming_two_that_clash(names: list[str]) -> None:
    """Either every project has a collection of its own, or two that sanitise alike are named."""
    try:
        collections = DEFAULT.canonical_names(names)
    except InvalidName as error:
        first, second = error.names
        assert first != second
        assert sanitise(first) == sanitise(second)
        return
    assert collections.keys() == set(names)
    assert len(set(collections.values())) == len(collections)


def test_project_whose_name_another_overrides_is_an_error_naming_both() -> None:
    """A project does not silently land in the collection that another one was given."""
    naming = CollectionNaming(overrides={"bar": "project-foo"})
    with pytest.raises(InvalidName) as caught:
        naming.canonical("foo")
    assert caught.value.names == ("BAR", "foo")


def test_collections_with_one_target_are_an_error_naming_both() -> None:
    """Two legacy collections with the same canonical name are not proposed for one target."""
    with pytest.raises(InvalidName) as caught:
        DEFAULT.proposals(["project_a_b_code", "project_c_code", "project_a-b_code"])
    assert caught.value.names == ("project_a_b_code", "project_a-b_code")
    assert "'project-a-b'" in str(caught.value)


# --- proposals


def test_proposals_cover_the_legacy_collections_of_a_server() -> None:
    """Each legacy collection is proposed once, in order, with a note where its target exists already."""
    collections = ["project_b_code", "docs", "project_A b_code", "project-b", "_qferry", "project_b_code"]
    assert DEFAULT.proposals(collections) == [
        Proposal(source="project_b_code", target="project-b", project="b", target_exists=True),
        Proposal(source="project_A b_code", target="project-a-b", project="A b", target_exists=False),
    ]


def test_proposals_are_empty_once_everything_is_migrated() -> None:
    """A server without legacy collections has nothing to plan."""
    assert DEFAULT.proposals(iter(["project-a", "project-b", "docs"])) == []


def test_proposals_refuse_a_project_without_a_canonical_name() -> None:
    """A legacy collection that needs an override is reported, not skipped."""
    with pytest.raises(InvalidName, match="'中文' has no ASCII letter or digit"):
        DEFAULT.proposals(["project_中文_code"])


@given(st.lists(plain_names, max_size=6, unique=True))
def test_proposals_when_carried_out_leave_nothing_to_propose(names: list[str]) -> None:
    """Renaming every source to its target ends the migration."""
    collections = [DEFAULT.legacy(name)[0] for name in names]
    proposals = DEFAULT.proposals(collections)
    assert [proposal.source for proposal in proposals] == collections
    assert DEFAULT.proposals([proposal.target for proposal in proposals]) == []


@given(plain_names, plain_names)
def test_proposals_keep_different_projects_apart(one: str, other: str) -> None:
    """Two projects that differ after sanitising always get two targets."""
    assume(one != other)
    proposals = DEFAULT.proposals([f"project_{one}_code", f"project_{other}_code"])
    assert len({proposal.target for proposal in proposals}) == 2


# --- values


def test_error_survives_pickling() -> None:
    """An error that crosses a process boundary keeps its message and its fields."""
    error = InvalidName("It is so.", hint="Do this.", names=("a", "b"))
    copy = pickled(error)
    assert (str(copy), copy.message) == (str(error), "It is so.")
    assert (copy.hint, copy.names) == ("Do this.", ("a", "b"))
    assert isinstance(copy, ValueError)


def test_rules_are_frozen_hashable_and_picklable() -> None:
    """The rules can be shared between threads, used as a key, and sent to another process."""
    naming = CollectionNaming(overrides={"a": "x"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        naming.template = "{name}"  # type: ignore[misc]  # the assignment is what must fail
    assert pickled(naming) == naming
    assert hash(pickled(naming)) == hash(naming)
