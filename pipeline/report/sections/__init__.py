"""The sections of a report: each is a class in a file of its own, with its template beside it.
A new section is a file here and a name among the bases of `ReportData` in `data.py`.
Sections do not import each other; what several of them read is declared in `section.py`."""
