"""`qferry status --watch`: the same picture, refreshed."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from qferry.errors import FerryError

WATCH_EVERY_S = 1.0


def watch(screen: Console, look: Callable[[], RenderableType]) -> RenderableType:
    """
    Draw what `look` sees until Ctrl-C, and return the last picture.

    Args:
        screen: A terminal.
        look: Called once a second; once it has succeeded, an error is shown and the next look may do better.
    """
    picture = look()
    with Live(picture, console=screen, auto_refresh=False, transient=True) as live:
        live.refresh()
        try:
            while True:
                time.sleep(WATCH_EVERY_S)
                try:
                    picture = look()
                except FerryError as error:
                    # A server that restarts is worth watching on.
                    live.update(Text(str(error), style="red"), refresh=True)
                else:
                    live.update(picture, refresh=True)
        except KeyboardInterrupt:
            # That is how watching ends.
            return picture
