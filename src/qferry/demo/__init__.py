"""The demo: real code, real applications, a migration under load, and a check of every point afterwards."""

from qferry.demo.errors import DemoError
from qferry.demo.result import DemoOptions, DemoResult
from qferry.demo.run import run_demo

__all__ = ["DemoError", "DemoOptions", "DemoResult", "run_demo"]
