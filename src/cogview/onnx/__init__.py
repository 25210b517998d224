"""The runtime without PyTorch."""
