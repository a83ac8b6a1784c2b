"""What the gateway costs, next to its peers: `python -m benchmarks`, or `make bench`."""
