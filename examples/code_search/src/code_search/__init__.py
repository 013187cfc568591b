"""Semantic search over a code base, served over MCP: an application whose Qdrant collection can migrate under it."""
