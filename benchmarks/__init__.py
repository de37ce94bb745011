"""What ``make bench`` measures: ratios beside ONNX Runtime and beside the yardsticks, never bare times."""
