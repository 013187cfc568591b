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
from http import HTTPStatus
from typing import Any

from qferry.control import wire
from qferry.errors import Refused, Rejected
from qferry.flows import configuration
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Flow, Json, Now, Outcome, Report, Request, Sleep, Together
from qferry.flows.lifecycle import wait_until_green
from qferry.flows.settle import CHECK_POINTS, check, drain_well
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
        unequal: Points that differ now, though they had been found equal and nobody has written them with qferry.
    """

    passed: bool
    detail: str
    evidence: Mapping[str, Any] | None
    unequal: frozenset[PointId] = frozenset()


@dataclass
class _Group:
    """Searches in one vector, filtered or not, and what has come of them."""

    vector: VectorKind
    filtered: bool
    unjudged: str = ""  # why its recall, or overlap, is only told
    searches: int = 0  # those that have an answer
    moving: int = 0  # and those that nobody can tell of, because their points are written all the time
    differing: list[Search] = field(default_factory=list)
    recalls: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)  # by the field filtered by

    def note(self, asked: _Asked, *, differs: bool) -> None:
        """Add what came of one search."""
        self.searches += 1
        self.differing += [asked.search] if differs else []
        if asked.recalls is not None:
            self.recalls.setdefault(asked.search.field, []).append(asked.recalls)

    @property
    def verdict(self) -> Verdict | None:
        """What the recalls come to; None for a sparse vector, which has none."""
        runs = [run for of in self.recalls.values() for run in of]
        return _judged(runs) if runs else None

    @property
    def short(self) -> list[str]:
        """The gates that are missed: by all together, and by those of one field where all together reach them."""
        if self.unjudged:
            return []
        overall = self.verdict.short if self.verdict else ()
        by_field = {name: _judged(runs).short for name, runs in self.recalls.items() if name}
        return [
            *overall,
            *(
                f"{gate} filtered by {name}"
                for name, gates in by_field.items()
                for gate in gates
                if gate not in overall
            ),
        ]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.differing and not self.short

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
            found |= {"short": self.short, "excused": list(verdict.excused)}
        if self.unjudged:
            found["unjudged"] = self.unjudged
        return found

    def __str__(self) -> str:
        what = f"{self.vector}{', filtered' if self.filtered else ''}: {self.searches:,} searches"
        if self.moving:
            what += f" (and {self.moving:,} left out, because their points are written all the time)"
        if self.differing:
            some = ", ".join(str(search) for search in self.differing[:_NAMED])
            what += f", {len(self.differing):,} exact ones find something else ({some})"
        elif self.searches and not self.vector.relative:
            what += ", exact ones find the same"
        verdict = self.verdict
        if verdict is None:
            return what
        measure = "overlap with the source's" if self.vector.relative else f"recall@{K}"
        what += f", {measure}: {verdict.target}"
        if self.short:
            what += f", too low: {', '.join(self.short)} (the source itself: {verdict.source})"
        if self.unjudged:
            return f"{what}, which is no reason to fail, because {self.unjudged}"
        if verdict.excused:
            what += f", which is no worse than the source itself ({verdict.source}): {', '.join(verdict.excused)}"
        return what


def _judged(runs: Sequence[tuple[float, float, float]]) -> Verdict:
    target, source, again = zip(*runs, strict=True)
    return judged(target, source, again)


@dataclass(frozen=True)
class _Asked:
    """
    The answers to one search.

    Args:
        search: The search.
        found: What exact searches have found, on either side.
        differs: Whether they have found something else there.
        recalls: On the target, on the source and there again; None: there is nothing to recall.
        refused: Whether the source does not take its filter.
    """

    search: Search
    found: frozenset[PointId] = frozenset()
    differs: bool = False
    recalls: tuple[float, float, float] | None = None
    refused: bool = False

    @property
    def tells(self) -> bool:
        """Whether it has an answer: two searches that find nothing agree whatever the points are like."""
        return bool(self.found) and (self.recalls is not None or not self.search.vector.relative)


@dataclass
class _Compared:
    """All searches, in groups, what was not searched, and what turned out to differ."""

    groups: list[_Group] = field(default_factory=list)
    fields: dict[str, int] = field(default_factory=dict)  # how many searches were filtered by which indexed field
    refused: set[str] = field(default_factory=set)  # fields with values that the source does not take in a filter
    absent: list[str] = field(default_factory=list)  # in words: vectors there is nothing to search in
    unproven: list[str] = field(default_factory=list)  # and those that there is
    unequal: frozenset[PointId] = frozenset()


@dataclass(frozen=True)
class _Again:
    """
    What a second look leaves of searches that differed.

    Args:
        differing: Those that still do.
        moving: Those of which nobody can tell, because their points are written all the time.
        unequal: Points among their answers that differ at rest.
    """

    differing: Sequence[Search] = ()
    moving: Sequence[Search] = ()
    unequal: frozenset[PointId] = frozenset()


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
        found = yield from _compared(co, info, target_info, queries)
    except Rejected as error:
        if error.missing or not error.final:
            raise
        return Parity(passed=False, detail=f"not proven: a server refuses to search. {error.message}", evidence=None)
    passed = all(group.passed for group in found.groups)
    if passed and found.unproven:
        return Parity(
            passed=False, detail=f"not proven: {'; '.join([*found.unproven, *map(str, found.groups)])}", evidence=None
        )
    evidence = {
        "queries": queries,
        "k": K,
        "passed": passed,
        "configuration": configuration.fingerprint(info, target_info),
        "vectors": [group.to_payload() for group in found.groups],
        "filters": found.fields,
    }
    return Parity(passed, _told(found), evidence, found.unequal)


def _told(found: _Compared) -> str:
    parts = [*map(str, found.groups), *found.absent, *found.unproven]
    if not parts:
        return "there is no vector, so nothing to search"
    if found.unequal:
        some = ", ".join(map(str, [*found.unequal][:_NAMED]))
        parts.append(f"{len(found.unequal):,} points differ that had been found equal ({some})")
    elif any(group.differing for group in found.groups):
        parts.append("the points in these answers are equal on both sides")
    if found.refused:
        parts.append(f"left out, because the source refuses the value: filters on {', '.join(sorted(found.refused))}")
    unused = [name for name, count in found.fields.items() if not count]
    if unused:
        parts.append(f"no filter on {', '.join(unused)}: no value to filter by in the sample")
    return "; ".join(parts)


def _compared(co: Coordinator, info: Json, target_info: Json, queries: int) -> Flow[_Compared]:
    """Draw searches in every vector, and compare them."""
    shards, others = (side["config"]["params"].get("shard_number") for side in (info, target_info))
    resharded = f"ranks depend on the shards: {shards} on the source, {others} on the target"
    schema = {name: index for name, index in (info.get("payload_schema") or {}).items() if '"' not in name}
    compared = _Compared(fields=dict.fromkeys(schema, 0))
    drawn = dict.fromkeys(schema, 0)
    throttle = Throttle(co, only_reads=True)
    for vector in kinds(info):
        searches, blank = yield from _drawn(co.migration, vector, schema, queries, drawn)
        answers = yield from _answers(co, throttle, searches, info)
        again = yield from _looked_again(co, throttle, [a.search for a in answers if a.differs], info)
        compared.unequal |= again.unequal
        compared.refused |= {asked.search.field for asked in answers if asked.refused}
        for filtered in (False, True):
            group = _Group(vector, filtered, resharded if vector.relative and shards != others else "")
            for asked in answers:
                if bool(asked.search.field) is not filtered:
                    continue
                if asked.search in again.moving:
                    group.moving += 1
                elif asked.tells:
                    group.note(asked, differs=asked.search in again.differing)
                    if filtered:
                        compared.fields[asked.search.field] += 1
            compared.groups += [group] if group.searches or group.moving else []
            if not filtered and not group.searches:
                yield from _nothing_searched(co.migration, vector, compared, blank=blank)
    return compared


def _nothing_searched(m: Migration, vector: VectorKind, compared: _Compared, *, blank: bool) -> Flow[None]:
    """Say why there was no search in a vector: an empty sample alone does not prove that no point has it."""
    if blank:
        compared.absent.append(f"{vector}: empty in every sampled point")
        return
    having = {"must": [{"has_vector": vector.name}]}
    count = (yield wire.count_anywhere(HOME, m.source, having))["count"]
    if count:
        compared.unproven.append(
            f"{vector}: {count:,} points have it, but no search in it proves anything; run it again"
        )
    else:
        compared.absent.append(f"{vector}: no point has it")


def _drawn(
    m: Migration, vector: VectorKind, schema: Mapping[str, Json], queries: int, drawn: dict[str, int]
) -> Flow[tuple[list[Search], bool]]:
    """
    Searches in one vector: one without a filter for each sampled point, and one by the field least used so far.

    Returns:
        The searches, and whether all sampled points have the vector, but nothing in it.
    """
    sampled = yield wire.sample(HOME, m.source, queries, vector=vector.name)
    ids = [point["id"] for point in sampled["points"]]
    named = list(dict.fromkeys(field.split(".")[0].removesuffix("[]") for field in schema))
    points = (yield wire.retrieve(HOME, m.source, ids, payload=named or False, vector=[vector.name])) if ids else []
    searches: list[Search] = []
    blank = 0
    for point in points:
        vectors = point.get("vector")
        query = vectors.get(vector.name) if isinstance(vectors, dict) else vectors
        if not query:
            continue  # it was deleted, or changed, a moment ago
        if vector.sparse and not query["indices"]:
            blank += 1
            continue
        searches.append(Search(point["id"], vector, query))
        possible = conditions(point.get("payload") or {}, schema)
        if possible:
            name = min(possible, key=lambda n: drawn[n])
            drawn[name] += 1
            searches.append(Search(point["id"], vector, query, name, possible[name]))
    return searches, bool(points) and blank == len(points)


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
        asked = searches[len(found) : len(found) + size]
        try:
            found += yield from _asked(co.migration, asked)
        except Rejected as error:
            if error.status != HTTPStatus.BAD_REQUEST or not any(search.field for search in asked):
                raise
            if len(asked) == 1 and not (yield from _refused(co.migration, asked[0])):
                raise
            found += [_Asked(asked[0], refused=True)] if len(asked) == 1 else []
            size = 1  # to know which
            continue
        ended: float = yield Now()
        if ended - began < _FAST_S:
            size = min(most, 2 * size)
        elif ended - began > _SLOW_S:
            size = max(1, size // 2)
        yield Report("search", len(found), len(searches), f"in {searches[0].vector}")
        yield from co.stay()
    co.pace = ""
    return found


def _refused(m: Migration, search: Search) -> Flow[bool]:
    """Whether the source itself does not take a search with a filter: then nobody can search so, on either side."""
    try:
        yield from _both(m, [search.body(exact=True)], [])
    except Rejected as error:
        return error.status == HTTPStatus.BAD_REQUEST
    return False


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
        # Where ranks are relative the source's own answer is what there is to be found.
        truth, scores = (ours[0], in_source) if search.vector.relative else (theirs[0], in_target)
        if _has_recall(search) and ours[0] and truth:
            recalls = (
                recall(_ids(theirs[-1]), truth, scores),
                recall(_ids(ours[1]), ours[0], in_source),
                recall(_ids(ours[2]), ours[0], in_source),
            )
        differs = not search.vector.relative and not agree(ours[0], theirs[0])
        found.append(_Asked(search, frozenset(_ids([*ours[0], *theirs[0]])), differs, recalls))
    # The application writes on: what the target finds may be what the source finds a moment later.
    unlike = [n for n, asked in enumerate(found) if asked.differs]
    later, _ = yield from _both(m, [searches[n].body(exact=True) for n in unlike], [])
    for n, hits in zip(unlike, later, strict=True):
        seen = found[n].found.union(_ids(hits))
        found[n] = replace(found[n], found=seen, differs=not agree(hits, answers[n][2][0]))
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


def _looked_again(co: Coordinator, throttle: Throttle, searches: Sequence[Search], info: Json) -> Flow[_Again]:
    """
    Whether searches differ even after all that is journalled, and was in flight, has been settled.

    Where an application writes a lot something differs at every look.  By rule (J) whatever it has written since the
    last entry was settled is in the journal once every writer has been heard.  So a search counts only if nothing in
    its answers is there; and if a point in them differs, and is not there either, somebody else has written it.
    """
    m = co.migration
    left: list[_Asked] = [_Asked(search) for search in searches]
    for look in range(LOOKS):
        if not left:
            return _Again()
        yield Sleep(HEARTBEAT_S if look else 0)
        yield from co.roll_call("searches are looked at again")
        yield from drain_well(co)
        answers = yield from _answers(co, throttle, [asked.search for asked in left], info)
        left = [asked for asked in answers if asked.differs]
    # Nothing is settled from here on.
    yield from co.roll_call("searches differ: what was written meanwhile?")
    written = yield from _journalled(m, _found(left))
    moving = [asked.search for asked in left if asked.found & written]
    resting = [asked for asked in left if not asked.found & written]
    unequal = yield from _unequal(m, _found(resting))
    last = yield from _answers(co, throttle, [asked.search for asked in resting], info)
    yield from co.roll_call("searches differ: what was written at the last look?")
    written = yield from _journalled(m, _found([*resting, *last]))
    unequal -= written
    differing = []
    for before, now in zip(resting, last, strict=True):
        if before.found & unequal:
            differing.append(now.search)
        elif now.differs:
            (moving if (before.found | now.found) & written else differing).append(now.search)
    return _Again(differing, moving, unequal)


def _found(answers: Sequence[_Asked]) -> list[PointId]:
    return list(frozenset[PointId]().union(*(asked.found for asked in answers)))


def _journalled(m: Migration, ids: Sequence[PointId]) -> Flow[frozenset[PointId]]:
    """Those of `ids` that are in the journal."""
    found: set[PointId] = set()
    for start in range(0, len(ids), CHECK_POINTS):
        page = ids[start : start + CHECK_POINTS]
        entries = yield wire.retrieve(HOME, m.journal_collection, page, payload=False, vector=False)
        found.update(entry["id"] for entry in entries)
    return frozenset(found)


def _unequal(m: Migration, ids: Sequence[PointId]) -> Flow[frozenset[PointId]]:
    """Those of `ids` that differ."""
    found: set[PointId] = set()
    for start in range(0, len(ids), CHECK_POINTS):
        found.update((yield from check(m, ids[start : start + CHECK_POINTS])))
    return frozenset(found)
