"""How a store of an earlier Rung becomes one of this. Run by `database.open_engine`."""
