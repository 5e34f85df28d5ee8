"""The version, read by setup.cfg and recorded in reports and cache keys."""

__version__ = "0.15.0"
