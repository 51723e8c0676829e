"""The memory that a copy takes, in a separate process."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.benchmarks import s3_sink
from tests.benchmarks.billing import certificate
from tests.support.s3_servers import S3Server
from tests.support.video_host import Reply, VideoHost, long_video

PROGRAM = """
import asyncio, json, sys, time
import boto3
from prefect_loova.transfer.copy import Target, copy_video

url, endpoint, bucket, key, secret = sys.argv[1:]
keys = {"aws_access_key_id": key, "aws_secret_access_key": secret}
s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
s3.list_objects_v2(Bucket=bucket)

def memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024

async def main():
    idle = memory("VmRSS")
    began = time.perf_counter(), time.process_time()
    copied = await copy_video(url, s3, Target(bucket, "video.mp4"), allow_private=True)
    took = time.perf_counter() - began[0], time.process_time() - began[1]
    print(json.dumps({"size": copied.size_bytes, "over_idle": memory("VmHWM") - idle, "wall": took[0], "cpu": took[1]}))

asyncio.run(main())
"""

MIB = 1024**2


READS_PROC = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
SINK = Path(s3_sink.__file__)


async def memory_of_copy(size: int, *where: str, **environment: str) -> float:
    """Copy a video of this size in a process of its own. Return the most memory over the idle process, in bytes."""
    async with VideoHost(Reply(long_video(size))) as host:
        command = (sys.executable, "-c", PROGRAM, host.url(), *where)
        program = await asyncio.create_subprocess_exec(
            *command, env=os.environ | environment, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await program.communicate()
    result = json.loads(output)
    assert result["size"] == size
    return float(result["over_idle"])


@READS_PROC
@pytest.mark.parametrize(("size", "most"), [(MIB // 4, 8 * MIB), (256 * MIB, 64 * MIB)], ids=["small", "large"])
async def test_a_copy_takes_less_than_64_mib_over_an_idle_process_and_a_small_one_less_than_a_part(
    size: int, most: int, s3_server: S3Server, bucket: str
) -> None:
    if s3_server.name == "moto":
        pytest.skip("moto would hold the video in memory")
    where = (s3_server.endpoint_url, bucket, s3_server.access_key, s3_server.secret_key)
    assert await memory_of_copy(size, *where) < most


@READS_PROC
@pytest.mark.parametrize("size", [20 * MIB, 256 * MIB], ids=["one part", "many parts"])
async def test_a_copy_that_is_sent_while_it_arrives_takes_less_than_64_mib_too(size: int, tmp_path: Path) -> None:
    trusted = certificate(tmp_path)
    sink = await asyncio.create_subprocess_exec(
        sys.executable, SINK, trusted, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert sink.stdin is not None and sink.stdout is not None
    try:
        where = f"https://127.0.0.1:{int(await sink.stdout.readline())}"
        taken = await memory_of_copy(size, where, "bucket", "any", "any", AWS_CA_BUNDLE=str(trusted))
    finally:
        sink.stdin.close()
        await sink.wait()
    assert taken < 64 * MIB
