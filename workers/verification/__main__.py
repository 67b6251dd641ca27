"""`python -m workers.verification FILE` reads an Opening as JSON from standard input, and writes an Answer
to the file."""

import sys
from pathlib import Path

from workers.verification.answer import Opening
from workers.verification.opening import answer_to

if __name__ == "__main__":
    asked = sys.stdin.buffer.read()  # libraries are imported by now: this process was started early
    Path(sys.argv[1]).write_text(answer_to(Opening.model_validate_json(asked)).model_dump_json())
