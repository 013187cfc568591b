"""
Move a live Qdrant collection to another one without stopping the application and without losing a point.

`FerryClient` and `AsyncFerryClient` replace qdrant-client's two; everything else is the `qferry` command.
"""

from qferry.callers import caller
from qferry.clients.async_ferry_client import AsyncFerryClient
from qferry.clients.ferry_client import FerryClient
from qferry.errors import (
    Conflict,
    DataMismatch,
    FerryError,
    InvalidName,
    LeaseLost,
    Misuse,
    NotAllowed,
    Refused,
    Rejected,
    RemoteFailure,
    TargetWriteFailed,
    Unreachable,
)
from qferry.options import FerryOptions

__all__ = [
    "AsyncFerryClient",
    "Conflict",
    "DataMismatch",
    "FerryClient",
    "FerryError",
    "FerryOptions",
    "InvalidName",
    "LeaseLost",
    "Misuse",
    "NotAllowed",
    "Refused",
    "Rejected",
    "RemoteFailure",
    "TargetWriteFailed",
    "Unreachable",
    "caller",
]
