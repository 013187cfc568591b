"""Chaos on real servers: real processes under load while a seeded script kills, stops and cuts them off."""
