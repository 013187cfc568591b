"""The simulator: the flows that ship, on virtual time, over a simulated Qdrant, under every interleaving and fault."""
