"""Analysis: evaluation of runs, and reports for people."""
