"""What the recipe `tiny` shows beside a comparison: a word's vector at work, its maps, some scenes, plain verdicts."""
