"""`qferry demo`: see it work, on a server of its own."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from qferry.cli import options, output
from qferry.cli.options import AsJson, verb_without_server
from qferry.cli.output import FAILED, Answer, Stop, interrupted

_DEFAULT_POINTS = 10_000
_MIN_POINTS = 100


@verb_without_server
def demo(
    points: Annotated[
        int, typer.Option("--points", min=_MIN_POINTS, help="How many points to move.")
    ] = _DEFAULT_POINTS,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            min=0,
            callback=options.finite,
            show_default=False,
            help="How long the applications should run in all; by default two minutes.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the applications the same requests.")] = 1,
    naive: Annotated[
        bool, typer.Option("--naive", help="Migrate by a plain dual-write recipe instead of qferry, for contrast.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", show_default=False, help="A fastembed model; by default the one built in."
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            show_default=False,
            help="Use this server, which must ask for no key, instead of starting one; no variable sets it.",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the applications' logs and say where they are.")] = False,
    as_json: AsJson = False,
) -> Answer:
    """Move real code under load, kill processes on the way, and check every point afterwards."""
    if url is not None:
        options.check_url(url, "--url")
    try:
        from qferry.demo import DemoError, DemoOptions, run_demo  # noqa: PLC0415  its packages are an extra
    except ImportError as error:
        raise Stop(
            "DemoNotInstalled",
            FAILED,
            f"The demo needs packages that are not installed: {error}.",
            "Install them with `pip install 'qferry[demo]'`, or run `make demo` in a checkout.",
        ) from error
    chosen: dict[str, Any] = {
        "points": points,
        "seconds": seconds,
        "seed": seed,
        "naive": naive,
        "url": url,
        "keep": keep,
    }
    if model is not None:
        chosen["model"] = model
    try:
        # Its closing tables are what a person came for; with --json the object is, and they are progress.
        result = run_demo(DemoOptions(**chosen), console=output.stderr() if as_json else output.stdout())
    except DemoError as error:
        raise Stop("DemoError", FAILED, str(error)) from error
    except KeyboardInterrupt:
        raise interrupted("Nothing of the demo is left running.") from None
    # The recipe is run to show what it loses: it has done its duty when it has run.
    return Answer(result.as_json(), Text(""), ok=result.passed or naive)
