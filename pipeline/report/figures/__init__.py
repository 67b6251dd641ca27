"""Reduced forms of curves that are too long to be stored and drawn whole.
A figure is computed once from the whole curve; sections store it, and charts draw it.
No geometry and no templates live here."""
