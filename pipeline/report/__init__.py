"""Reports of jobs: their sections, the page, the pictures, the gates, and the model card.
A section is a file in `sections/` with its template, and a name among the bases of `ReportData` in `data.py`.
Reports only show what artifacts hold; nothing is computed from weights here."""
