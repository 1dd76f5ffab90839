"""The ladder: what each way of adapting a base gives and costs, from the cheapest up, to a bar."""
