"""The stages between a loaded network and a verified one. Each is a function of frozen values; `pipeline` has their
order."""
