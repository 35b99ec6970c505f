"""Cards: what an evaluation says about the limits of a run."""
