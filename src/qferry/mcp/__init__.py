"""
The operator's commands as tools for an assistant, over the Model Context Protocol.

Thin layers over `qferry.commands`, like the command line.  Its packages are an extra, so nothing outside imports it
but `qferry mcp`, when it runs.
"""
