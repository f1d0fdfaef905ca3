"""From what: readers, records and batches. Nothing here knows a model or a trainer."""
