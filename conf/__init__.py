"""Which: every experiment as data."""
