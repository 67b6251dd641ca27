"""Reports of jobs: the data with every figure, its sections, the page, the pictures, and the model card.
A section is one file with its data, summary and template name, and an entry in a list.
Reports only show what artifacts hold; nothing is computed from weights here."""
