"""Text and pictures -> the graph's tensors. Imported only by models with such features."""
