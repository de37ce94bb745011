"""What 16 bits cost RapidOCR's reader, and how few of them do: the front, and the gate of issue 5, point 6."""

from __future__ import annotations

from rich.console import Console

from benchmarks.accuracy import CALIBRATED, padded
from benchmarks.lines import page
from ommatid.compiler.front import FrontOptions
from ommatid.profiler import demo
from ommatid.profiler.front import drawing, front_table
from ommatid.profiler.precision import WITHIN_DB, choose_precision

READER, SHAPE, SAMPLES = "ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 1280), 8
#: The most of the cycles that 16 bits everywhere add.
SHARE = 0.4


def main() -> None:
    """Print the front, and whether a point of it is near enough to all in 16 bits for few enough cycles."""
    recorder = demo.Recorder(demo.float_session(READER))
    read = demo.reader({READER: recorder})
    for seed in CALIBRATED:
        read(page(seed)[0])
    rows = [row for batch in recorder.fed for row in batch][:SAMPLES]
    samples = [{"x": padded(row, SHAPE)} for row in rows]
    front = choose_precision(
        demo.model_path(READER), "ommatid-1k", 2, FrontOptions(calibration=samples), {"x": SHAPE}
    )
    console = Console(width=120)
    console.print(front_table(front))
    console.print(drawing(front), markup=False)
    lost, share = front.sixteen.sqnr_db - front.chosen.sqnr_db, front.extra(front.chosen)
    console.print(
        f"{lost:.1f} dB below all in 16 bits for {100 * share:.0f}% of the extra cycles (at most {WITHIN_DB:.0f} dB, "
        f"{100 * SHARE:.0f}%): {'held' if lost <= WITHIN_DB and share <= SHARE else 'NOT HELD'}"
    )


if __name__ == "__main__":
    main()
