"""Showing what was done: the record of a run, as a table in the terminal and as JSON. Nothing is decided here."""
