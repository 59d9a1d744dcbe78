"""The MCP server: other programs, such as assistants, make and describe pictures over standard input and output."""
