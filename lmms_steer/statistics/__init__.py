"""Intervals and p-values for differences between paired scores, for leaderboards and searches."""
