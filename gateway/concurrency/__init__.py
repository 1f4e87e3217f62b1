"""Building blocks of bounded, fair concurrency: one of each, used everywhere."""
