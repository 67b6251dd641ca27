"""From a request to pinned sources: every source is asked what it holds now, and what cannot work is refused
early. It reads configs and listings, and estimates the memory of training. It downloads no weights and
changes nothing."""
