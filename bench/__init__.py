"""
What qferry's speed is, measured against what people would do otherwise: `python -m bench`, explained in docs/bench.md.

Each module answers one question: `copies`, `latencies`, `load` and `growth`; `contenders` are the ways to copy a
collection, and `report` turns figures into ratios with their targets.
"""
