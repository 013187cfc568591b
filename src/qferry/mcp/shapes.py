"""What tools answer where that is not a command's own result: the objects of `--json`, as types, for their schemas."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from qferry.commands import HistoryLine
from qferry.flows.diagnosis import Finding
from qferry.flows.differences import Difference
from qferry.flows.verify import Check
from qferry.protocol.checklist import Metric
from qferry.protocol.throttle import Limits


class WriterAnswer(TypedDict):
    """One process of the application."""

    host: str
    pid: int
    since: str
    acknowledged_epoch: int
    behind: bool
    debt: int
    busy_s: float
    p99_ms: float | None
    failed: int
    suspect: bool
    pins: str


class ShadowAnswer(TypedDict):
    """What shadow reads have found, those of all processes, since they were asked for."""

    percent: float
    since_epoch: int
    compared: int
    mean_overlap: float | None
    mismatches: int
    max_score_delta: float
    latency_ratio: float | None
    errors: int
    dropped: int
    worse: str | None


class MigrationAnswer(TypedDict):
    """One migration, as `status` shows it."""

    id: str
    source: str
    target: str
    phase: str
    routing: str
    truth: str
    read_percent: int
    reads_held: bool
    stepped_back: str | None
    max_errors_percent: float
    max_read_ms: float
    shadow: ShadowAnswer | None
    epoch: int
    policy: str
    strategy: str
    copied_points: int
    expected_points: int
    debt: int
    verified: dict[str, Any] | None
    parity: dict[str, Any] | None
    comparison: dict[str, Any] | None
    suspicions: list[str]
    source_points: int | None
    target_points: int | None
    target_status: str | None
    target_failure: str | None
    writers: list[WriterAnswer]
    coordinator: str | None
    limits: Limits
    pace: str | None
    created_at: str
    finished_at: str | None
    cleanup_after: str | None
    checklist: list[Metric]
    next: str


class StatusAnswer(TypedDict):
    """Where migrations stand."""

    migrations: list[MigrationAnswer]


class HistoryAnswer(TypedDict):
    """What was done, oldest first."""

    history: list[HistoryLine]


class DoctorAnswer(TypedDict):
    """What is wrong; `ok`: nobody has to act."""

    ok: bool
    migrations: int
    findings: list[Finding]


class ThrottleAnswer(TypedDict):
    """How fast it may go, and goes."""

    source: str
    target: str
    limits: Limits
    coordinator: str | None
    pace: str | None


class VerifyAnswer(TypedDict):
    """What a verification found; `ok`: every check passed. Of what differs, the first hundred."""

    ok: bool
    checks: list[Check]
    points: int
    differing: list[int | str]
    repaired: int
    seconds: float
    differences: list[Difference]
