"""
Takes a migration through its states, by the dashboard, and writes docs/images/ui-*.png: `make screenshots`.

Everything in the pictures is real: the server, the applications that read and write meanwhile, the differences, and the
readers that go back.  The target's index is a lean one, so that its searches do not find everything.
"""

import contextlib
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from browsing import chromium, dashboard
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page
from qdrant_client import QdrantClient, models

from qferry import FerryClient, commands
from qferry.connection import Connection
from qferry.protocol.records import Strategy
from qferry.server import QdrantServer

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SOURCE, TARGET = "project_atlas_code", "project-atlas"
OTHERS = (("project_billing_code", "project-billing"), ("project_search_code", "project-search"))
POINTS = 24_000
COLOURS = 128
HALF = 0.45
DESK = {"width": 1080, "height": 900}
PHONE = {"width": 390, "height": 844}
SIZE = 24
LANGUAGES = ("python", "rust", "go", "java")
LEAN = {
    "hnsw_config": {"m": 16, "ef_construct": 128, "full_scan_threshold": 10},
    "optimizers_config": {"indexing_threshold": 200},
}
# So little that no read stays below it, in milliseconds.
TOO_LITTLE = "0.5"


def vector() -> list[float]:
    """Somewhere."""
    return [random.gauss(0, 1) for _ in range(SIZE)]


def fill(client: QdrantClient, name: str, points: int) -> None:
    """Make a collection with so many points."""
    client.create_collection(name, vectors_config=models.VectorParams(size=SIZE, distance=models.Distance.COSINE))
    client.create_payload_index(name, "language", models.PayloadSchemaType.KEYWORD, wait=True)
    for begin in range(0, points, 2000):
        ids = range(begin, min(points, begin + 2000))
        batch = [models.PointStruct(id=i, vector=vector(), payload={"language": LANGUAGES[i % 4]}) for i in ids]
        client.upsert(name, batch, wait=True)


@contextlib.contextmanager
def application(server: QdrantServer, writers: int) -> Iterator[None]:
    """So many clients that search, and write now and then."""
    over = threading.Event()

    def work(number: int) -> None:
        client = FerryClient(url=server.url, grpc_port=server.grpc_port, check_compatibility=False)
        with contextlib.closing(client):
            turn = 0
            while not over.wait(0.05):
                turn += 1
                client.query_points(SOURCE, query=vector(), limit=10)
                if turn % 4 == 0:
                    point = models.PointStruct(id=number * 100 + turn // 4 % 100, vector=vector())
                    client.upsert(SOURCE, [point], wait=True)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(writers)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()


def shoot(page: Page, name: str) -> None:
    """Take a picture, small enough for a repository."""
    path = IMAGES / f"ui-{name}.png"
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=path, full_page=True)
    Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    sys.stdout.write(f"{path.name}: {path.stat().st_size // 1024} kB\n")


def do(page: Page, address: str, verb: str, **typed: str) -> None:
    """Fill an action's form in and send it."""
    page.goto(f"{address}/{verb}")
    for name, text in typed.items():
        page.fill(f"[name={name}]", text)
    page.click("form.card button")


def shots(browser: Browser, server: QdrantServer, url: str) -> None:
    """The way of one migration."""
    connection = Connection(url=server.url, grpc_port=server.grpc_port)
    plain = QdrantClient(url=server.url, check_compatibility=False)
    fill(plain, SOURCE, POINTS)
    for source, target in OTHERS:
        fill(plain, source, 3000)
        commands.start(connection, source, target, strategy=Strategy.STREAM)
    billing = OTHERS[0][0]
    commands.backfill(connection, billing)
    commands.verify(connection, billing)
    commands.switch(connection, billing, percent=100)

    desk: BrowserContext = browser.new_context(viewport=DESK, color_scheme="light")
    page = desk.new_page()
    page.set_default_timeout(90_000)
    with application(server, 5):
        commands.start(connection, SOURCE, TARGET, overrides=LEAN, strategy=Strategy.STREAM)
        address = f"{url}/migrations/{commands.find(connection, SOURCE).id}"
        commands.throttle(connection, SOURCE, limits={"max_points_per_s": 900})
        do(page, address, "backfill")
        bar = page.locator(".progress progress")
        while float(bar.get_attribute("value") or 0) < HALF:  # the page's policy lets nobody evaluate a condition there
            page.wait_for_timeout(500)
        shoot(page, "copying")
        phone = browser.new_context(viewport=PHONE, color_scheme="dark", device_scale_factor=1)
        small = phone.new_page()
        small.goto(address)
        small.wait_for_selector(".line polyline")
        shoot(small, "phone-dark")
        phone.close()
        page.goto(url)
        page.wait_for_selector(".migrations")
        shoot(page, "list")
        do(page, address, "throttle", max_points_per_s="0")
        page.goto(address)
        page.wait_for_selector(".chip.copied")
        page.wait_for_selector("text=is done")

        # Somebody who does not use qferry writes to the target.
        plain.upsert(TARGET, [models.PointStruct(id=i, vector=vector()) for i in range(7001, 7008)])
        plain.delete(TARGET, models.PointIdsList(points=[9009]))
        do(page, address, "verify")
        page.wait_for_selector("text=differences were found")
        shoot(page, "failed-verification")
        do(page, address, "repair")
        page.wait_for_selector("text=both sides are equal")
        do(page, address, "switch", percent="10", shadow_percent="50", max_read_ms="2000")
        page.wait_for_selector("text=10 % of reads")
        page.wait_for_selector(".work >> text=is done")
        page.wait_for_selector("text=at least 0.85")
        page.wait_for_selector("text=The gates count from", state="detached")
        shoot(page, "switched")
        do(page, address, "switch", percent="50", max_read_ms=TOO_LITTLE)
        page.wait_for_selector("text=went back to the source by themselves")
        page.wait_for_selector(".work", state="detached")
        shoot(page, "stepped-back")
        page.goto(f"{address}/switch")
        shoot(page, "switch")
        do(page, address, "switch", percent="100", max_read_ms="0")
        page.wait_for_selector("text=100 % of reads")
        page.wait_for_selector(".work >> text=is done")
        page.goto(f"{address}/finish")
        shoot(page, "finish")
        do(page, address, "finish", typed_name=SOURCE)
        page.wait_for_selector(".chip.finished")
        page.wait_for_selector(".work >> text=is done")
        shoot(page, "finished")
    plain.close()


def main() -> None:
    """Take all of them."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with QdrantServer.start() as server, dashboard(server) as (url, _), chromium() as browser:
        shots(browser, server, url)


if __name__ == "__main__":
    main()
