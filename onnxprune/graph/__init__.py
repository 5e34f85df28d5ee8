"""The ONNX graph: ``model`` reads and writes it, ``channels`` knows what can be changed, ``edit`` changes it."""
