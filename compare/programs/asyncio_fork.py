"""A child tears down the event loop that it inherited, and its parent goes deaf."""
import asyncio
import os


async def main():
    loop = asyncio.get_running_loop()
    r, w = os.pipe()
    heard = asyncio.Event()
    loop.add_reader(r, heard.set)
    await asyncio.sleep(0.02)
    child = os.fork()
    if child == 0:
        loop.remove_reader(r)  # culprit
        os._exit(0)
    os.waitpid(child, 0)
    os.write(w, b"x")
    try:
        await asyncio.wait_for(heard.wait(), 0.5)
    except asyncio.TimeoutError:
        print("deaf")


asyncio.run(main())
