"""Everything that can be known before a migration, and what cannot; nothing is written."""
