"""What a difference between paired scores is worth: intervals and p-values, for boards and for searches."""
