"""The structure of each model type: one row of data per type in `rows.py`, and the labels of its dimensions.
Code that treats model types differently belongs here, as data of a row. It reads no checkpoint, and nothing
here knows a method, a spec or a stage."""
