"""Reads a whole collection the plain way, past every client library."""

from __future__ import annotations

import httpx
import orjson

from qferry.demo.fingerprint import PointState, payload_fingerprint, vector_fingerprint

PAGE_POINTS = 1_000
TIMEOUT_S = 60.0


def read_collection(url: str, collection: str) -> dict[int, PointState]:
    """
    Every point of a collection with its vector bits and its payload.

    Args:
        url: The server.
        collection: A collection with one unnamed vector and integer ids.

    Returns:
        The state of each point, by id.

    Raises:
        httpx.HTTPError: the server did not answer with success.
    """
    points: dict[int, PointState] = {}
    offset = None
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as http:
        while True:
            request = {"limit": PAGE_POINTS, "offset": offset, "with_payload": True, "with_vector": True}
            answer = http.post(f"/collections/{collection}/points/scroll", json=request).raise_for_status()
            page = orjson.loads(answer.content)["result"]
            for point in page["points"]:
                state = vector_fingerprint(point["vector"]), payload_fingerprint(point["payload"])
                points[point["id"]] = state
            offset = page["next_page_offset"]
            if offset is None:
                return points
