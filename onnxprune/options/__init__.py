"""The options: a frozen dataclass a group.

A group is the panel of the command line, the argument in Python and the record in the report.
"""
