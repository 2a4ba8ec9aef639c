"""The output of the recipe `tiny` beyond a comparison: one word's vector at work, a table with verdicts, and a page."""
