"""
The dashboard: the operator's commands and what they show, in a browser.

Thin layers over `qferry.commands`, like the command line.  Pages are made on the server and are whole without
JavaScript; with it they stay up to date.  Its packages are an extra, so nothing outside imports it but `qferry ui`,
when it runs.
"""
