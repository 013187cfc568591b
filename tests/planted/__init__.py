"""Faults planted into a target that was verified, each of which `qferry verify` must find."""
