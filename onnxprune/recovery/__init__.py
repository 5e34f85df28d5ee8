"""Recovery: training of a compressed network on the original's outputs, without labels. Needs torch, an extra."""
