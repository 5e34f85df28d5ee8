"""The ONNX graph: loading, folding, channels and their rules, surgery, cost. Knows nothing of running or solving."""
