"""When it is looked at and how well it did: what happens around training, and what a run leaves behind."""
