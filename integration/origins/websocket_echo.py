"""A WebSocket service, over the websockets library: sends back what it gets. Prints `listening PORT`.

A text `close CODE REASON` has it close with that code and reason instead.
"""

import asyncio

from websockets.asyncio.server import serve


async def echo(connection) -> None:
    async for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ", 2)
            await connection.close(int(code), reason)
            return
        await connection.send(message)


async def main() -> None:
    async with serve(echo, "127.0.0.1", 0, subprotocols=["chat", "echo"], max_size=1 << 26) as server:
        print("listening", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
