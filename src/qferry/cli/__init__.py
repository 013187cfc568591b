"""The `qferry` command: a thin layer over `qferry.commands`."""

from qferry.cli.app import main

__all__ = ["main"]
