"""Pictures and coloured tables as geometry, and the macros that write it into a page.
The code here does not know sections: charts take figures and give shapes in the units of one SVG view box.
Templates do no arithmetic beyond offsets of labels."""
