"""Every interleaving of small scopes: the flows that ship, explored completely instead of by chance."""
