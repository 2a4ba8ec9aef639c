"""The whole line on the tiny model that ships: sentences ▸ vectors ▸ a choice ▸ lmms-eval ▸ a table and a page."""
