"""Train the tiny models of videos and sounds: one language model, and what it sees and hears by."""
