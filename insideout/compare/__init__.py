"""Two runs over the same films: what changed in their rows, in time on screen, and in which frames."""

from insideout.compare.runs import Comparison, compare_runs

__all__ = ["Comparison", "compare_runs"]
