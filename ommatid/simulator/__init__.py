"""Programs run: functionally, bit by bit, and in time."""
