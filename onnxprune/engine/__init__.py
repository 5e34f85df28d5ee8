"""Running networks by onnxruntime: sessions, providers, frontier execution, sampling, timing, divergence."""
