"""Models behind somebody else's API: the client, batches of requests, fine-tuning jobs there."""
