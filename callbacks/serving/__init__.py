"""What served workloads leave behind: what a model can carry, a log of each, and curves over rates."""
