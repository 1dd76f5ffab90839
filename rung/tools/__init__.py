"""Tools that a model may call: functions of a Python file, or an MCP server's, run in processes apart.

Results are data. Whatever a tool returns is one text of bounded length; where it is rendered, nothing
in it can open or close a turn (`rung.data.turns`, `rung.data.encoding`).
"""
