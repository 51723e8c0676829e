"""The bucket: one prefix, job records by compare-and-swap, the daily budget, objects as files.

It may use `models`. It knows no job and no Prefect.
"""
