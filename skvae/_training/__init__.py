"""Training: the loop, its steps, the parameters' memory, solvers, the graph-free engine."""
