"""Sessions in onnxruntime's manner, on the simulator."""
