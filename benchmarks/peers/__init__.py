"""Other people's ways to serve the shipped model, each as its own documentation has it.

All take the same body and open the same packed graph with the same threads, so that what differs
is what stands around the run.
"""
