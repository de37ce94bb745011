"""Options of onnxruntime sessions, under which a quantised model's numbers are those of the model on every machine."""

from __future__ import annotations

from typing import Any

#: Where onnxruntime would otherwise compute something else, and what turns that off.
EXACT = {
    # int8 activations would be computed in float32
    "session.qdqisint8allowed": "1",
    # without VNNI, sums of two products of uint8 by int8 would saturate at 16 bits
    "session.x64quantprecision": "1",
    # activations of 16 bits by int8 weights would be rounded to 8 bits on the way
    "session.qdq_matmulnbits_accuracy_level": "1",
}


def exact_options() -> Any:
    """New ``SessionOptions``, silent but for errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for key, value in EXACT.items():
        options.add_session_config_entry(key, value)
    return options
