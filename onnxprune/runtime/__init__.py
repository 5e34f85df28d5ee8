"""onnxruntime: sessions, providers, frontier execution, sampling, timing. Knows nothing of solving or planning."""
