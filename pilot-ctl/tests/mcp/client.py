"""An MCP client of the official Python SDK: the twin of examples/mcp_client.rs, with the same arguments and the same report."""

import asyncio
import json
import sys
import time

from mcp import Client, StdioServerParameters


async def talk(server: StdioServerParameters, text: str, tool: str, arguments: dict) -> dict:
    start = time.monotonic()
    arrivals = []

    def note(**message) -> None:
        arrivals.append({"at_ms": round((time.monotonic() - start) * 1000), **message})

    async def on_progress(progress: float, _total: float | None, _message: str | None) -> None:
        note(progress=progress)

    async with Client(server) as client:
        tools = await client.list_tools()
        echo = await client.call_tool("echo", {"message": text})
        result = await client.call_tool(tool, arguments, progress_callback=on_progress)
        note(result=said(result))
        return {
            "client": "mcp",
            "revision": client.protocol_version,
            "tools": [tool.name for tool in tools.tools],
            "echo": said(echo),
            "arrivals": arrivals,
        }


def said(result) -> str:
    return "".join(content.text for content in result.content if content.type == "text")


def only_server(path: str) -> StdioServerParameters:
    with open(path, encoding="utf-8") as config:
        (server,) = json.load(config)["mcpServers"].values()
    return StdioServerParameters(**server)


if __name__ == "__main__":
    config, text, tool, arguments = sys.argv[1:]
    print(json.dumps(asyncio.run(talk(only_server(config), text, tool, json.loads(arguments)))))
