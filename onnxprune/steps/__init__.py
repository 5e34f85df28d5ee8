"""Stages between a loaded network and a verified one: functions of frozen values, called in order by `pipeline`."""
