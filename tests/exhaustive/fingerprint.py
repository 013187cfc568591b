"""
All that decides how a process goes on, as one value that can be compared and hashed.

Equal fingerprints must mean equal behaviour, or interleavings would be left out unseen.  So everything a suspended
flow holds is looked at: its place in the code, the variables it may still read, and what lies on its evaluation
stack (the iterator of a `for` is in no variable); then the objects these lead to, field by field, with their sharing:
two names for one journal are not two journals.  What is not known how to compare is refused, never ignored.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any

from pydantic import BaseModel

from qferry.protocol.canary import Watch
from qferry.protocol.session import Session, View

from .liveness import read_later

# Counted for people, read by no flow except to report it (and there left out too, see servers.py).
IRRELEVANT: dict[type, frozenset[str]] = {
    Session: frozenset(
        {
            "random",
            "caller",
            "calls",
            "calls_at_last_beat",
            "timed_s",
            "beat",
            "host",
            "pid",
            "since",
            "watches",
            "looked_at",
            "heartbeat_s",
        }
    ),
    # Nothing follows from what is watched: the scopes' migrations put up with everything (scope.py).
    Watch: frozenset({"ended", "given_up", "under_way", "silent_s", "looked_at", "begun", "since"}),
    View: frozenset({"oldest_call"}),
}
_OF_THE_INTERPRETER = (CodeType, FrameType, ModuleType, type, BuiltinFunctionType)


def fingerprint(*roots: object) -> Hashable:
    """What decides how everything reachable from `roots` goes on."""
    return _Look().at(roots)


class _Look:
    """One look at a graph of objects; each is numbered when it is first met."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._met: list[object] = []  # kept alive, or another object could be met under the same identity

    def at(self, value: Any) -> Hashable:
        """A value for `value`, equal for what is alike."""
        kind = type(value)
        if value is None or kind is int or kind is str or kind is bytes:
            result: Hashable = value
            return result
        if kind is bool or kind is float:
            return kind.__name__, value
        if kind is tuple:
            return "tuple", *map(self.at, value)
        if isinstance(value, Enum):
            return kind.__qualname__, value.name
        if isinstance(value, BaseModel):  # arguments of a call: nobody changes them
            return kind.__qualname__, value.model_dump_json()
        if isinstance(value, BaseException):
            return kind.__qualname__, str(value)
        if kind is range or isinstance(value, _OF_THE_INTERPRETER):
            return kind.__qualname__, repr(value)
        if is_dataclass(value) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            return kind.__qualname__, *(self.at(getattr(value, f.name)) for f in fields(value))
        return self._at_object(value)

    def _at_object(self, value: Any) -> Hashable:
        if id(value) in self._numbers:
            return "met before", self._numbers[id(value)]
        self._numbers[id(value)] = len(self._numbers)
        self._met.append(value)
        kind = type(value)
        if kind in _CONTAINERS:
            return kind.__name__, *map(self.at, _CONTAINERS[kind](value))
        if kind is FunctionType:
            return value.__qualname__, *map(self.at, value.__closure__ or ())
        if kind is MethodType:
            return value.__qualname__, self.at(value.__self__)
        if kind is CellType:
            return "cell", *map(self.at, gc.get_referents(value))
        if kind is GeneratorType:
            return self._at_generator(value)
        if isinstance(value, Iterator):
            return kind.__name__, *map(self.at, value.__reduce__()[1:])  # type: ignore[index]
        if not hasattr(value, "__dict__"):
            raise TypeError(f"It is not known how to compare {value!r}; say so in {__name__}.")
        left_out = IRRELEVANT.get(kind, frozenset())
        return kind.__qualname__, *((k, self.at(v)) for k, v in vars(value).items() if k not in left_out)

    def _at_generator(self, flow: GeneratorType[Any, Any, Any]) -> Hashable:
        frame = flow.gi_frame
        if frame is None:
            return flow.__qualname__, "ended"
        variables = frame.f_locals
        needed = read_later(frame.f_code, frame.f_lasti)
        # Before Python 3.11 a generator's variables and stack belong to its frame object.
        held = [*gc.get_referents(flow), *gc.get_referents(frame)]
        mine = {id(x) for x in (variables, frame.f_globals, frame.f_builtins, frame.f_back, flow, frame)}
        on_stack = [x for x in held if id(x) not in mine and not isinstance(x, CodeType)]
        for value in variables.values():
            place = next((n for n, x in enumerate(on_stack) if x is value), None)
            if place is not None:  # of a variable that is closed over, the cell is held
                del on_stack[place]
        kept = [(name, self.at(value)) for name, value in variables.items() if name in needed]
        return flow.__qualname__, frame.f_lasti, *kept, *map(self.at, on_stack)


_CONTAINERS: dict[type, Callable[[Any], Any]] = {
    list: lambda x: x,
    dict: dict.items,
    set: lambda x: sorted(x, key=repr),
    frozenset: lambda x: sorted(x, key=repr),
}
