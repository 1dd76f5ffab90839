"""The OpenAI-compatible API over one engine.

`loading.load_engine` goes from names to an engine, `app.create_app` from an engine to an application,
and `run.run` serves it until it is told to end.
"""
