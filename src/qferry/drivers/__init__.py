"""Drivers: they carry out the effects of a flow, blocking or on asyncio."""
