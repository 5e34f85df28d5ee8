"""Steps between a loaded network and a verified one, a verb a file: functions of the prepared run, in the order of
`commands.prune`."""
