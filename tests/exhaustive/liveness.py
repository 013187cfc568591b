"""
Which variables of a suspended flow it may still read.

What a flow has read an hour ago and will write anew before it reads it again decides nothing.  Without this, a
coordinator that polls would be in another state for each thing it once saw.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from types import CodeType

_ENDS = frozenset({"RETURN_VALUE", "RETURN_CONST", "RERAISE", "RAISE_VARARGS"})
_JUMPS = frozenset({"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_ABSOLUTE"})


def read_later(code: CodeType, offset: int) -> frozenset[str]:
    """The variables that may be read after the instruction at `offset`, at which the flow is suspended."""
    closed_over = code.co_cellvars + code.co_freevars
    return _live(code)[offset].union(closed_over)


@cache
def _live(code: CodeType) -> dict[int, frozenset[str]]:
    """Per instruction, the variables that may be read during it or after it: a textbook data-flow analysis."""
    instructions = list(dis.get_instructions(code))
    following = {a.offset: b.offset for a, b in pairwise(instructions)}
    caught = {
        i.offset: [target for start, end, target in _handlers(code) if start <= i.offset < end] for i in instructions
    }
    before: dict[int, frozenset[str]] = {i.offset: frozenset() for i in instructions}
    after: dict[int, frozenset[str]] = dict(before)
    changed = True
    while changed:
        changed = False
        for i in reversed(instructions):
            to = [] if i.opname in _ENDS or i.opname in _JUMPS else [following[i.offset]]
            if i.opcode in dis.hasjrel or i.opcode in dis.hasjabs:
                to.append(i.argval)
            left = frozenset().union(*(before[target] for target in to))
            read, written = _touched(i)
            needed = (left - written) | read
            needed = needed.union(*(before[target] for target in caught[i.offset]))
            if needed != before[i.offset] or left != after[i.offset]:
                before[i.offset], after[i.offset], changed = needed, left, True
    return {offset: before[offset] | after[offset] for offset in before}


def _touched(i: dis.Instruction) -> tuple[frozenset[str], frozenset[str]]:
    """The variables an instruction reads, and those it writes; in doubt it only reads."""
    if "FAST" not in i.opname:
        return frozenset(), frozenset()
    names = i.argval if isinstance(i.argval, tuple) else (i.argval,)
    if i.opname == "STORE_FAST":
        return frozenset(), frozenset(names)
    if i.opname == "STORE_FAST_STORE_FAST":
        return frozenset(), frozenset(names)
    if i.opname == "STORE_FAST_LOAD_FAST":
        return frozenset(names[1:]) - frozenset(names[:1]), frozenset(names[:1])
    return frozenset(names), frozenset()


def _handlers(code: CodeType) -> Iterator[tuple[int, int, int]]:
    """From where to where which handler catches; before Python 3.11 it is not said where, so: everywhere."""
    if sys.version_info >= (3, 11):
        for entry in dis.Bytecode(code).exception_entries:
            yield entry.start, entry.end, entry.target
        return
    for i in dis.get_instructions(code):
        if i.opname.startswith("SETUP_"):
            yield 0, len(code.co_code), i.argval
