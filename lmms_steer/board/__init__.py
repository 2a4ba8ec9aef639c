"""A leaderboard that other people add to: checked entries in a folder, its static page, and repeated runs."""
