"""An interleaving in words: numbered steps, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.simulation.possible_states import Step

from qferry.flows.effects import Call, Request

from .explorer import Explorer, Found, Move, State
from .processes import BEAT, CALL, Answer, Read
from .scope import short_waits

_FATES = {
    "never": "is lost on its way, and so nobody answers",
    "late": "is given up; it may land later",
    "landed": "is carried out, but the answer is lost",
}


def told(explorer: Explorer, found: Found) -> Iterator[str]:
    """The violation and the steps that lead to it."""
    yield found.violation
    state = explorer.first()
    with short_waits():
        for number, move in enumerate(found.path, 1):
            yield f"{number:4} {_told(explorer, state, move)}"
            state = explorer.after(state, move)
    for at, event in explorer.verdict.history.events(state[3]):
        yield f"     told ({at}): {' '.join(str(part) for part in event if part != b'')}"


def _told(explorer: Explorer, state: State, move: Move) -> str:
    i, what, *more = move
    if i < 0:
        sent = explorer.servers.sent[more[0]].effect if more else None
        return {
            "late": f"a request that was given up lands: {_request(sent)}",
            "pause": "everybody is put aside for longer than a lease",
            "final": "the application has nothing more to do; the final check begins",
            "hearts": "nothing else moves; each writer's heart beats",
        }[str(what)]
    who = explorer.setting.names[i]
    stage = explorer.machines[i].stages[state[1][i]]
    if what == CALL:
        made = sum(e[0] == "begins" and e[1] == who for _, e in explorer.verdict.history.events(state[3]))
        return f"{who:6} calls {_call(explorer.verdict.calls[who][made])}"
    if what == BEAT:
        return f"{who:6} its heart begins to beat"
    if what == "go":
        return f"{who:6} its {more[0]} takes its answers and goes on"
    if what == "kill":
        late = [_request(explorer.servers.sent[stage.local.slots[n].request].effect) for n in more[0]]
        return f"{who:6} is killed" + (f"; on their way stay {', '.join(late)}" if late else "")
    request = stage.local.slots[more[0]].request
    words = f"{who:6} {_request(explorer.servers.sent[request].effect)}"
    if what == "lose":
        return f"{words} {_FATES[more[1]]}"
    _, answer = explorer.servers.land(state[0], request)
    return f"{words} -> {_answer(explorer.servers.answers[answer])}"


def _call(planned: Step | Read) -> str:
    if isinstance(planned, Read):
        return f"read {list(planned.ids)}"
    chosen = list(planned.ids) if planned.where is None else f"where {planned.where[0]}={planned.where[1]}"
    return f"{planned.kind} {chosen} {dict(planned.payload) or ''}".rstrip()


def _request(effect: Request | Call | None) -> str:
    if isinstance(effect, Call):
        if "update_operations" not in effect.kwargs:
            return f"{effect.method} on `{effect.collection}`"
        kinds = [type(o).__name__.removesuffix("Operation") for o in effect.kwargs["update_operations"]]
        return f"{', '.join(kinds)} on `{effect.collection}`"
    if effect is None:
        return ""
    body = effect.body or {}
    points: list[Any] = body.get("points", []) if isinstance(body, dict) else []
    held = [{k: v for k, v in p["payload"].items() if k in _SHOWN} if isinstance(p, dict) else p for p in points]
    detail = held or {k: v for k, v in body.items() if k in ("payload", "ids", "actions", "filter")}
    return f"{effect.op} {effect.path.removeprefix('/collections/')} {detail or ''}".rstrip()


_SHOWN = frozenset({"v", "w", "token", "kind", "acked", "epoch", "phase"})


def _answer(answer: Answer) -> str:
    if answer.status:
        return f"{answer.status} {answer.text}"
    text = answer.value.decode()
    return "done" if "completed" in text else text[:160]
