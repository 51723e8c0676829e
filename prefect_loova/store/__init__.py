"""The bucket: a prefix, job records with compare-and-swap writes, the daily budget, and objects as files.

This package may import `models`. It must not import `jobs` or Prefect.
"""
