"""ommatid: compile ONNX vision networks for an edge NPU, run them bit-exactly, see where the cycles go."""
