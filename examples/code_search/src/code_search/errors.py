"""
Every error the application raises on its own account; what a server or qferry raises is passed on as it is.

    CodeSearchError
    ├── SettingsInvalid     a variable of the environment is missing or cannot be used
    ├── NotIndexed          the project has no collection yet
    ├── CollectionUnfit     the project's collection holds other vectors than this model's
    ├── RootUnfit           the folder to index is none, or there is nothing in it
    └── QueryInvalid        nothing can be searched for by this
"""

from __future__ import annotations


class CodeSearchError(Exception):
    """The root of the application's errors; the message says what happened, what it means and what to do next."""


class SettingsInvalid(CodeSearchError):
    """A variable of the environment is missing or cannot be used; nothing was sent."""


class NotIndexed(CodeSearchError):
    """The project has no collection, under any of its possible names."""


class CollectionUnfit(CodeSearchError):
    """The project's collection holds other vectors than this model's, or another project; nothing was changed."""


class RootUnfit(CodeSearchError):
    """The folder to index is none, or there is nothing in it to index; nothing was changed."""


class QueryInvalid(CodeSearchError):
    """Nothing can be searched for by this; nothing was sent."""
