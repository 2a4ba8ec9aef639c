"""How numbers are written and maps are drawn, the same wherever they stand."""
