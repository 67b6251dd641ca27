"""The API with hundreds of thousands of jobs: how long requests take, and what streams cost.

For each database, a real service in a process of its own gets 200,000 jobs with 1.1 million events (one job
has 100,000), and 100 jobs run on a stand-in for Ray, which answers that they do. Another process sends 50
requests a second, at fixed times, however slow the answers are: submissions of a real (tiny) checkpoint,
lists with every filter, pages of the large job. Then 500 streams follow the jobs that run, whose drivers
report 20 events a second; what the streams cost is the service's CPU beside that of the same time without.

`--quick`: 50,000 jobs, and 20 seconds instead of 60.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file has the name of the package it measures

from bench.service.measured import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
