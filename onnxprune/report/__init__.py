"""Reports: the record of a run as tables in the terminal, plots and JSON."""
