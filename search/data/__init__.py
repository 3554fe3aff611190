"""Data to search and train on: named data sets, the user's own loaders, and the batches made from them."""
