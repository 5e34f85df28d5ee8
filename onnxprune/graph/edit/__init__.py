"""Edits of a graph: removing or zeroing channels, writing weights, decomposing layers, dropping residual branches."""
