"""An image pipeline of three services. Elsewhere each is served by itself: ``warren serve thumbnails:camera`` …"""

import asyncio
import os

from warren import AsyncClient, CallError, Pipeline, Server, Service

camera, darkroom, album = Service("camera"), Service("darkroom"), Service("album")
Rows = list[bytes]  # an image: a byte for each pixel


@camera.method
def take(width: int, height: int) -> Rows:
    return [bytes((x + y) % 256 for x in range(width)) for y in range(height)]


@darkroom.method
def shrink(image: Rows) -> Rows:
    if not image:
        raise ValueError("nothing to be seen")
    return [row[::4] for row in image[::4]]


@album.method
def keep(image: Rows) -> str:  # and here it would be stored
    return f"a thumbnail of {len(image[0])} x {len(image)} pixels is kept"


async def main(url: str) -> None:
    async with Server(camera, darkroom, album, url=url, name="studio"), AsyncClient(url, encoding="msgpack") as client:
        thumbnail = Pipeline(take).then(shrink).then(keep)
        print(await client.call(thumbnail, 320, 240))
        try:
            await client.call(thumbnail, 320, 0)
        except CallError as error:
            print(error.message)  # which says in which stage; so does error.stage


if __name__ == "__main__":
    asyncio.run(main(os.environ.get("WARREN_URL", "amqp://localhost")))
