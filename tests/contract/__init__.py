"""One contract for every backend: the same tests over each, and what they run against."""
