"""The step from a request to pinned sources: every source is pinned to its present content, and a request
that cannot work is refused early. The code here reads configs and listings, and estimates the memory of
training. It downloads no weights and changes nothing."""
