"""The commands: the order of the steps of each, and its result type."""
