"""Speed and memory, each as a ratio against a peer or a limit; `make bench` runs them all."""
