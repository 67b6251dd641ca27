"""The section with the machine and the versions that the figures come from, and the seeds of a job."""

from pipeline.report.section import Section


class EnvironmentSection(Section):
    """This section shows `environment`, and `seeds` where the report has them."""
