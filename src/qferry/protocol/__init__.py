"""The protocol's pure part: states, transitions, leases and the journal. No I/O, no clock, no client."""
