"""What of a graph can be changed: operator rules, groups of channels, layers, residual branches."""
