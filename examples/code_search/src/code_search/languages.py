"""
The languages whose syntax is known: which files are written in them, and what in them has a name.

A query marks three things in a syntax tree: a `unit` (a function or a method, found as a whole), a `container` (a
class, whose methods are units of their own), and what is `attached` to the definition below it (comments, decorators).
`name` is what the definition is called, `scope` the type that it belongs to where that is not a container around it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import tree_sitter_go
import tree_sitter_java
import tree_sitter_javascript
import tree_sitter_python
import tree_sitter_rust
import tree_sitter_typescript
from tree_sitter import Language, Node, Parser, Query

PLAIN_TEXT = "text"

_PYTHON = """
(function_definition name: (_) @name) @unit
(class_definition name: (_) @name) @container
(decorator) @attached
(comment) @attached
"""

_ECMASCRIPT = """
(function_declaration name: (_) @name) @unit
(generator_function_declaration name: (_) @name) @unit
(method_definition name: (_) @name) @unit
(variable_declarator name: (identifier) @name value: [(arrow_function) (function_expression)]) @unit
(class_declaration name: (_) @name) @container
(decorator) @attached
(comment) @attached
"""

_JAVASCRIPT = (
    _ECMASCRIPT
    + """
(field_definition property: (_) @name value: [(arrow_function) (function_expression)]) @unit
"""
)

_TYPESCRIPT = (
    _ECMASCRIPT
    + """
(public_field_definition name: (_) @name value: [(arrow_function) (function_expression)]) @unit
(abstract_class_declaration name: (_) @name) @container
(interface_declaration name: (_) @name) @unit
(enum_declaration name: (_) @name) @unit
(type_alias_declaration name: (_) @name) @unit
(internal_module name: (_) @name) @container
"""
)

_GO = """
(function_declaration name: (_) @name) @unit
(method_declaration
  receiver: (parameter_list (parameter_declaration type: [
    (type_identifier) @scope
    (generic_type type: (_) @scope)
    (pointer_type [(type_identifier) @scope (generic_type type: (_) @scope)])
  ]))
  name: (_) @name) @unit
(type_declaration (type_spec name: (_) @name)) @unit
(comment) @attached
"""

_RUST = """
(function_item name: (_) @name) @unit
(function_signature_item name: (_) @name) @unit
(struct_item name: (_) @name) @unit
(enum_item name: (_) @name) @unit
(union_item name: (_) @name) @unit
(macro_definition name: (_) @name) @unit
(impl_item type: [(type_identifier) @name (generic_type type: (_) @name) (scoped_type_identifier name: (_) @name)])
  @container
(trait_item name: (_) @name) @container
(mod_item name: (_) @name body: (_)) @container
(attribute_item) @attached
(line_comment) @attached
(block_comment) @attached
"""

_JAVA = """
(method_declaration name: (_) @name) @unit
(constructor_declaration name: (_) @name) @unit
(compact_constructor_declaration name: (_) @name) @unit
(class_declaration name: (_) @name) @container
(interface_declaration name: (_) @name) @container
(enum_declaration name: (_) @name) @container
(record_declaration name: (_) @name) @container
(annotation_type_declaration name: (_) @name) @container
(line_comment) @attached
(block_comment) @attached
"""


@dataclass(frozen=True)
class Grammar:
    """
    How one language is read.

    Args:
        language: Its syntax.
        query: Marks in a syntax tree what the module's docstring says.
    """

    language: Language
    query: Query

    def parse(self, text: str) -> Node:
        """Make a syntax tree of a file; by a parser of its own, because one must not be used by two threads."""
        return Parser(self.language).parse(text.encode()).root_node


# By the end of a file's name: the language's name, its grammar and its query.
_BY_SUFFIX: dict[str, tuple[str, Callable[[], object], str]] = {
    **dict.fromkeys((".py", ".pyi"), ("python", tree_sitter_python.language, _PYTHON)),
    **dict.fromkeys((".js", ".jsx", ".mjs", ".cjs"), ("javascript", tree_sitter_javascript.language, _JAVASCRIPT)),
    **dict.fromkeys((".ts", ".mts", ".cts"), ("typescript", tree_sitter_typescript.language_typescript, _TYPESCRIPT)),
    ".tsx": ("typescript", tree_sitter_typescript.language_tsx, _TYPESCRIPT),
    ".go": ("go", tree_sitter_go.language, _GO),
    ".rs": ("rust", tree_sitter_rust.language, _RUST),
    ".java": ("java", tree_sitter_java.language, _JAVA),
}

LANGUAGES = (*sorted({name for name, _, _ in _BY_SUFFIX.values()}), PLAIN_TEXT)
"""Every value that a chunk's `language` may have."""


def language_of(path: str) -> str:
    """The language of a file by its name; `text` if its syntax is not known."""
    known = _BY_SUFFIX.get(_suffix(path))
    return known[0] if known else PLAIN_TEXT


def grammar_of(path: str) -> Grammar | None:
    """The grammar of a file by its name; None if its syntax is not known."""
    suffix = _suffix(path)
    return _grammar(suffix) if suffix in _BY_SUFFIX else None


@functools.cache
def _grammar(suffix: str) -> Grammar:
    _, grammar, query = _BY_SUFFIX[suffix]
    language = Language(grammar())
    return Grammar(language, Query(language, query))


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()
