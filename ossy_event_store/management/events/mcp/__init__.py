"""``manage.py events mcp``: the events for programs that speak MCP, to read only."""
