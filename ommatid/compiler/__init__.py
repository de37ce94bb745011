"""ONNX models become programs."""
