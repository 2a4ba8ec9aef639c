"""One style and a few drawing primitives over plain values, shared by all figures."""
