"""Send a file piece by piece, where ``warren serve upload:service`` runs; here all of it is one program."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator

from warren import AsyncClient, Progress, Server, Service, current_call

URL, SIZE = os.environ.get("WARREN_URL", "amqp://localhost"), 3_000_000
service = Service("upload")


@service.method
async def store(pieces: AsyncIterator[bytes], path: str) -> int:
    with open(f"{path}.part", "wb") as file:  # noqa: ASYNC230 - on a disk, which does not keep us waiting
        async for piece in pieces:
            current_call().progress(file.tell() + file.write(piece), SIZE)
        size = file.tell()
    os.replace(f"{path}.part", path)  # an upload that is broken does not get here
    return size


def show(progress: Progress) -> None:
    if progress.is_complete:
        print("all of it has come")


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Server(service, url=URL), AsyncClient(URL) as client:
            how = client.options(timeout=3600, idle_timeout=10, on_progress=show)
            pieces = (os.urandom(60_000) for _ in range(SIZE // 60_000))
            print(await how.upload(store, pieces, f"{folder}/stored"), "bytes are stored")


if __name__ == "__main__":
    asyncio.run(main())
