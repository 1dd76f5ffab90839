"""The mathematics: the trie, its attention, the bank of adapters, and the loss."""
