"""Copies a URL to a checked S3 object: download, check and upload.

It may use `store` and `client`. It does not know job records.
"""
