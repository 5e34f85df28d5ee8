"""The graph as it is read and written: loading, normalising, folding, shapes, order of execution, saving."""
