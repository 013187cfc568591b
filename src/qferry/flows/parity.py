"""
Search parity: whether searches on the target find what they find on the source.

Comes after every point has been found equal; it is about what lies between equal points and the answers that readers
get.  Queries are vectors of points sampled from the source, without and with filters on indexed payload fields.  Exact
searches must find the same, ties aside.  What an index finds is measured against exact searches of the same side, so
that writes under way matter little, and held against the gates and against the source's own (protocol/parity.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qferry.control import wire
from qferry.errors import Refused, Rejected
from qferry.flows import configuration
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Flow, Json, Now, Outcome, Report, Request, Sleep, Together
from qferry.flows.lifecycle import wait_until_green
from qferry.flows.settle import drain_well
from qferry.flows.throttle import Throttle
from qferry.protocol.journal import PointId
from qferry.protocol.parity import Hit, K, Verdict, agree, judged, recall
from qferry.protocol.phases import Side
from qferry.protocol.queries import Search, VectorKind, conditions, kinds
from qferry.protocol.records import HEARTBEAT_S, HOME, Migration

# How many points are searched with, for each vector.
QUERIES = 100
# How often an exact search that differs is looked at again before it counts.
LOOKS = 5
# Searches of one request, at most, by how many bodies each of them has there; a slow server gets fewer.
BATCH, _BODIES = 16, 3
_SLOW_S, _FAST_S = 4.0, 1.0
_STANDSTILL_S = 1.0
_NAMED = 3  # searches in the detail


@dataclass(frozen=True)
class Parity:
    """
    What was found.

    Args:
        passed: Whether the target's searches are as good as they must be.
        detail: In words.
        evidence: In figures; None: nothing was proven either way.
    """

    passed: bool
    detail: str
    evidence: Mapping[str, Any] | None

    @property
    def differs(self) -> bool:
        """Whether exact searches find something else: then points differ that had been found equal."""
        return any(group["differing"] for group in (self.evidence or {}).get("vectors", ()))


@dataclass
class _Group:
    """Searches in one vector, filtered or not, and what has come of them."""

    vector: VectorKind
    filtered: bool
    searches: int = 0
    differing: list[Search] = field(default_factory=list)
    target: list[float] = field(default_factory=list)
    source: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)

    def note(self, recalls: tuple[float, float, float] | None) -> None:
        """Add those of one search."""
        if recalls is not None:
            self.target.append(recalls[0])
            self.source.append(recalls[1])
            self.again.append(recalls[2])

    @property
    def verdict(self) -> Verdict | None:
        """What the recalls come to; None for a sparse vector, which has none."""
        return judged(self.target, self.source, self.again) if self.target else None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.differing and (self.verdict is None or not self.verdict.short)

    def to_payload(self) -> dict[str, Any]:
        """For the record."""
        found: dict[str, Any] = {
            "vector": self.vector.name,
            "filtered": self.filtered,
            "searches": self.searches,
            "differing": len(self.differing),
        }
        verdict = self.verdict
        if verdict is not None:
            runs = {"target": verdict.target, "source": verdict.source, "source_again": verdict.again}
            found["recall"] = {name: figures.to_payload() for name, figures in runs.items()}
            found |= {"short": list(verdict.short), "excused": list(verdict.excused)}
        return found

    def __str__(self) -> str:
        what = f"{self.vector}{', filtered' if self.filtered else ''}: {self.searches:,} searches"
        if self.differing:
            some = ", ".join(str(search) for search in self.differing[:_NAMED])
            what += f", {len(self.differing):,} exact ones find something else ({some})"
        elif not self.vector.relative:
            what += ", exact ones find the same"
        verdict = self.verdict
        if verdict is None:
            return what
        measure = "overlap with the source's" if self.vector.relative else f"recall@{K}"
        what += f", {measure}: {verdict.target}"
        if verdict.short:
            what += f", too low: {', '.join(verdict.short)} (the source itself: {verdict.source})"
        if verdict.excused:
            what += f", which is no worse than the source itself ({verdict.source}): {', '.join(verdict.excused)}"
        return what


@dataclass(frozen=True)
class _Asked:
    """The answers to one search; recalls on the target, on the source and there again, if it has any."""

    search: Search
    differs: bool
    recalls: tuple[float, float, float] | None


def parity(co: Coordinator, queries: int, green_timeout_s: float) -> Flow[Parity]:
    """
    Compare searches, once the target has built its indexes.

    Args:
        co: The claim must be held, and every point have been found equal.
        queries: How many points to search with, for each vector.
        green_timeout_s: How long to wait for the target's indexes.
    """
    try:
        yield from wait_until_green(co, green_timeout_s)
    except Refused as refused:
        return Parity(passed=False, detail=f"not proven: {refused.message}", evidence=None)
    m = co.migration
    info = yield wire.info(HOME, m.source)
    target_info = yield wire.info(m.target_url, m.target)
    try:
        groups, fields = yield from _compared(co, info, queries)
    except Rejected as error:
        if error.missing or not error.final:
            raise
        return Parity(passed=False, detail=f"not proven: a server refuses to search. {error.message}", evidence=None)
    passed = all(group.passed for group in groups)
    evidence = {
        "queries": queries,
        "k": K,
        "passed": passed,
        "configuration": configuration.fingerprint(info, target_info),
        "vectors": [group.to_payload() for group in groups],
        "filters": fields,
    }
    return Parity(passed, _told(kinds(info), groups, fields), evidence)


def _told(vectors: Sequence[VectorKind], groups: Sequence[_Group], fields: Mapping[str, int]) -> str:
    if not vectors:
        return "there is no vector, so nothing to search"
    searched = {group.vector for group in groups}
    parts = [str(group) for group in groups]
    parts += [f"{vector}: no point has it" for vector in vectors if vector not in searched]
    unused = [name for name, count in fields.items() if not count]
    if unused:
        parts.append(f"no filter on {', '.join(unused)}: no value to filter by in the sample")
    return "; ".join(parts)


def _compared(co: Coordinator, info: Json, queries: int) -> Flow[tuple[list[_Group], dict[str, int]]]:
    """All searches, in groups; and how many of them were filtered by which indexed field."""
    schema = {name: index for name, index in (info.get("payload_schema") or {}).items() if '"' not in name}
    fields = dict.fromkeys(schema, 0)
    throttle = Throttle(co, only_reads=True)
    groups: list[_Group] = []
    for vector in kinds(info):
        searches = yield from _drawn(co.migration, vector, schema, queries, fields)
        answers = yield from _answers(co, throttle, searches, info)
        still = yield from _still_differing(co, throttle, [a.search for a in answers if a.differs], info)
        for filtered in (False, True):
            group = _Group(vector, filtered)
            for asked in answers:
                if bool(asked.search.field) is filtered:
                    group.searches += 1
                    group.differing += [asked.search] if asked.search in still else []
                    group.note(asked.recalls)
            groups += [group] if group.searches else []
    return groups, fields


def _drawn(
    m: Migration, vector: VectorKind, schema: Mapping[str, Json], queries: int, fields: dict[str, int]
) -> Flow[list[Search]]:
    """Searches in one vector: one without a filter for each sampled point, and one by the field least used so far."""
    sampled = yield wire.sample(HOME, m.source, queries, vector=vector.name)
    ids = [point["id"] for point in sampled["points"]]
    named = list(dict.fromkeys(field.split(".")[0].removesuffix("[]") for field in schema))
    points = (yield wire.retrieve(HOME, m.source, ids, payload=named or False, vector=[vector.name])) if ids else []
    searches: list[Search] = []
    for point in points:
        vectors = point.get("vector")
        query = vectors.get(vector.name) if isinstance(vectors, dict) else vectors
        if not query or (vector.sparse and not query["indices"]):
            continue  # it was deleted, or changed, a moment ago
        searches.append(Search(point["id"], vector, query))
        possible = conditions(point.get("payload") or {}, schema)
        if possible:
            name = min(possible, key=lambda n: fields[n])
            fields[name] += 1
            searches.append(Search(point["id"], vector, query, name, possible[name]))
    return searches


def _answers(co: Coordinator, throttle: Throttle, searches: Sequence[Search], info: Json) -> Flow[list[_Asked]]:
    """What comes of searches, several at once."""
    strict = info["config"].get("strict_mode_config") or {}
    most = max(1, min(BATCH, (strict.get("search_max_batchsize") or BATCH * _BODIES) // _BODIES))
    found: list[_Asked] = []
    size = 1
    while len(found) < len(searches):
        while (yield from throttle.look(0)).stands_still:
            yield Sleep(_STANDSTILL_S)
        began: float = yield Now()
        found += yield from _asked(co.migration, searches[len(found) : len(found) + size])
        ended: float = yield Now()
        if ended - began < _FAST_S:
            size = min(most, 2 * size)
        elif ended - began > _SLOW_S:
            size = max(1, size // 2)
        yield Report("search", len(found), len(searches), f"in {searches[0].vector}")
        yield from co.stay()
    co.pace = ""
    return found


def _asked(m: Migration, searches: Sequence[Search]) -> Flow[list[_Asked]]:
    """What comes of a few searches, on both sides at once."""
    on_source: list[Json] = []
    on_target: list[Json] = []
    for search in searches:
        exact = search.body(exact=True)
        by_index = [search.body(exact=False)] if _has_recall(search) else []
        on_source += [exact, *by_index, *by_index]
        on_target += [exact, *by_index]
    source, target = yield from _both(m, on_source, on_target)
    answers = []
    for search in searches:
        runs = 2 if _has_recall(search) else 0
        ours = [source.pop(0) for _ in range(1 + runs)]
        theirs = [target.pop(0) for _ in range(1 + runs // 2)]
        answers.append((search, ours, theirs))
    strays = yield from _scored(m, answers)
    found = []
    for (search, ours, theirs), (in_source, in_target) in zip(answers, strays, strict=True):
        recalls = None
        if _has_recall(search):
            # Where ranks are relative the source's own answer is what there is to be found.
            truth, scores = (ours[0], in_source) if search.vector.relative else (theirs[0], in_target)
            recalls = (
                recall(_ids(theirs[-1]), truth, scores),
                recall(_ids(ours[1]), ours[0], in_source),
                recall(_ids(ours[2]), ours[0], in_source),
            )
        differs = not search.vector.relative and not agree(ours[0], theirs[0])
        found.append(_Asked(search, differs, recalls))
    # The application writes on: what the target finds may be what the source finds a moment later.
    unlike = [n for n, asked in enumerate(found) if asked.differs]
    later, _ = yield from _both(m, [searches[n].body(exact=True) for n in unlike], [])
    for n, hits in zip(unlike, later, strict=True):
        found[n] = replace(found[n], differs=not agree(hits, answers[n][2][0]))
    return found


def _has_recall(search: Search) -> bool:
    """Whether an index may miss something: sparse vectors are always searched exactly."""
    return not search.vector.sparse or search.vector.relative


def _both(m: Migration, on_source: Sequence[Json], on_target: Sequence[Json]) -> Flow[tuple[list[Any], list[Any]]]:
    """Searches on both sides at once, each answered by a list of hits."""
    sent: list[tuple[Side, Request]] = []
    for side, bodies in ((Side.SOURCE, on_source), (Side.TARGET, on_target)):
        if bodies:
            sent.append((side, wire.search(m.server(side), m.collection(side), bodies)))
    outcomes: list[Outcome] = (yield Together(tuple(request for _, request in sent))) if sent else []
    found: dict[Side, list[Any]] = {side: [] for side in Side}
    for (side, _), outcome in zip(sent, outcomes, strict=True):
        found[side] = [[(hit["id"], hit["score"]) for hit in one["points"]] for one in outcome.result()]
    return found[Side.SOURCE], found[Side.TARGET]


_Scores = dict[PointId, float]


def _scored(
    m: Migration, answers: Sequence[tuple[Search, list[list[Hit]], list[list[Hit]]]]
) -> Flow[list[tuple[_Scores, _Scores]]]:
    """For each search, on each side, the exact scores of what was found beside what an exact search has found there."""
    bodies: tuple[list[Json], list[Json]] = ([], [])
    places: tuple[list[int], list[int]] = ([], [])
    scores: list[tuple[_Scores, _Scores]] = [({}, {}) for _ in answers]
    for number, (search, ours, theirs) in enumerate(answers):
        on_source, on_target = (ours[1:], theirs[1:]) if not search.vector.relative else ([*ours[1:], theirs[1]], [])
        for side, exact, others in ((0, ours[0], on_source), (1, theirs[0], on_target)):
            known = set(_ids(exact))
            strays = list(dict.fromkeys(i for hits in others for i in _ids(hits) if i not in known))
            for start in range(0, len(strays), K):
                bodies[side].append(search.body(exact=True, among=strays[start : start + K]))
                places[side].append(number)
    for side, found in enumerate((yield from _both(m, *bodies))):
        for number, hits in zip(places[side], found, strict=True):
            scores[number][side].update(hits)
    return scores


def _ids(hits: Sequence[Hit]) -> list[PointId]:
    return [i for i, _ in hits]


def _still_differing(
    co: Coordinator, throttle: Throttle, searches: Sequence[Search], info: Json
) -> Flow[Sequence[Search]]:
    """Those that differ even after all that is journalled, and was in flight, has been settled."""
    left = searches
    for look in range(LOOKS):
        if not left:
            break
        yield Sleep(HEARTBEAT_S if look else 0)
        yield from co.roll_call("searches are looked at again")
        yield from drain_well(co)
        answers = yield from _answers(co, throttle, left, info)
        left = [asked.search for asked in answers if asked.differs]
    return left
