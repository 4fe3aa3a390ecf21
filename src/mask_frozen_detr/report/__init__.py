"""What came of a run or an evaluation, to look at: one HTML page, and runs side by side."""
