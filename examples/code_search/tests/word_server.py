"""
The MCP server as a process of its own, with the model without a model, and a quick heartbeat.

Arguments: `HOST:PORT` to serve over HTTP, or nothing for stdio; the seconds that each text takes.
"""

import os
import sys
import time
from dataclasses import replace

from code_search_support import FAST, CountingEmbedder

from code_search.server import serve
from code_search.settings import Settings

if __name__ == "__main__":
    http, seconds_per_text = sys.argv[1:]
    embedder = CountingEmbedder()
    embedder.before = lambda texts: time.sleep(float(seconds_per_text) * len(texts))
    serve(replace(Settings.from_environ(os.environ), ferry=FAST), http or None, embedder=embedder)
