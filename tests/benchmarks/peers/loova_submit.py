"""The flow of three tasks in docs/one-video.md, as a file for `start.py` to import."""

from prefect import flow
from prefect_aws.s3 import S3Bucket

from prefect_loova import LoovaCredentials, VideoRequest, save_video, submit_video, wait_for_video


@flow
async def morning_video(prompt: str, credentials: LoovaCredentials, bucket: S3Bucket) -> str:
    submission = await submit_video(VideoRequest(prompt=prompt), credentials=credentials, bucket=bucket)
    await wait_for_video(submission, credentials=credentials, bucket=bucket)
    saved = await save_video(submission, credentials=credentials, bucket=bucket)
    return saved.video
